"""The peers, at the conversion's MACs and with its images.

| pruned            | Torch-Pruning (group magnitude), BatchNorm statistics matched                        |
| pruned + refitted | only channels inside blocks are pruned; every layer refitted by least squares        |
| low rank          | 1x1 convolutions as two of reduced rank, others as k x 1 and 1 x k; factors refitted |
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.benchmarks.accuracy.peers import macs
from tests.benchmarks.real.refit import matched, refitted

_BISECTIONS = 8
Kept = dict[str, Tensor]


def pruned(model: nn.Module, images: Tensor, share: float) -> tuple[nn.Module, float]:
    example = images[:1]
    made, kept, found = _to_share(lambda ratio: _pruned(model, example, ratio, ()), example, model, share)
    matched(model, made, kept, images)
    return made, found


def pruned_inside(model: nn.Module, images: Tensor, share: float) -> tuple[nn.Module, float]:
    example = images[:1]
    streams = _streams(model, example)
    made, kept, found = _to_share(lambda r: _pruned(model, example, r, streams), example, model, share)
    refitted(model, made, kept, images)
    return made, found


def low_rank(model: nn.Module, images: Tensor, share: float) -> tuple[nn.Module, float]:
    from tests.benchmarks.real.factors import factored

    return factored(model, images, share)


def _to_share(
    make: Callable[[float], tuple[nn.Module, Kept]], example: Tensor, model: nn.Module, share: float
) -> tuple[nn.Module, Kept, float]:
    """The pruning ratio that comes nearest to a share of the MACs, by bisection."""
    whole = macs(model, example)
    low, high, best = 0.0, 0.95, None
    for _ in range(_BISECTIONS):
        ratio = (low + high) / 2
        made, kept = make(ratio)
        found = macs(made, example) / whole
        if best is None or abs(found - share) < abs(best[2] - share):
            best = made, kept, found
        low, high = (ratio, high) if found > share else (low, ratio)
    assert best is not None
    if best[2] > 1.1 * share:
        raise NotImplementedError(f"with {share:.3f} of the MACs it leaves nothing ({best[2]:.3f})")
    return best


def _pruned(
    model: nn.Module, example: Tensor, ratio: float, ignored: tuple[str, ...]
) -> tuple[nn.Module, Kept]:
    """A pruned copy, and by path which output channels of its convolutions and norms are left."""
    import torch_pruning

    made = copy.deepcopy(model)
    names = {module: name for name, module in made.named_modules()}
    outputs = [m for m in made.modules() if isinstance(m, nn.Linear)]
    try:
        pruner = torch_pruning.pruner.BasePruner(
            made,
            example,
            torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[
                *outputs,
                *(made.get_submodule(name) for name in (*ignored, *_last(model, example))),
            ],
        )
        gone: dict[str, list[int]] = {}
        for group in pruner.step(interactive=True):
            for dependency, indices in group:
                name = names.get(dependency.target.module)
                if name is not None and "out" in dependency.handler.__name__:
                    gone.setdefault(name, []).extend(indices)
            group.prune()
        with torch.no_grad():
            made(example)
    except Exception as error:  # whatever it does not follow
        raise NotImplementedError(f"Torch-Pruning cannot prune it: {type(error).__name__}") from error
    kept = {}
    for name, indices in gone.items():
        module = model.get_submodule(name)
        count = int(getattr(module, "out_channels", getattr(module, "num_features", 0)))
        left = torch.ones(count, dtype=torch.bool)
        left[torch.tensor(indices)] = False
        kept[name] = left.nonzero()[:, 0]
    return made.eval(), kept


def _last(model: nn.Module, example: Tensor) -> list[str]:
    """Convolutions that make the model's output: those whose channels no other layer reads."""
    from octify.trace import trace

    traced = trace(copy.deepcopy(model), example)
    found = []
    for node in traced.module.graph.find_nodes(op="call_module"):
        if isinstance(traced.submodule(node), nn.Conv2d):
            todo, seen, read = list(node.users), set(), False
            while todo:
                user = todo.pop()
                if user in seen:
                    continue
                seen.add(user)
                if isinstance(traced.submodule(user), (nn.Conv2d, nn.Linear)):
                    read = True
                    continue
                todo += user.users
            if not read:
                found.append(str(node.target))
    return found


def _streams(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Convolutions whose channels are tied to another convolution's: those of residual streams."""
    import torch_pruning

    try:
        graph = torch_pruning.DependencyGraph().build_dependency(copy.deepcopy(model), example)
        names = {module: name for name, module in graph.model.named_modules()}
        found: list[str] = []
        for group in graph.get_all_groups():
            makers = {
                names[d.target.module]
                for d, _ in group
                if isinstance(d.target.module, nn.Conv2d)
                and "out" in d.handler.__name__
                and d.target.module.groups == 1
            }
            if len(makers) > 1:
                found += sorted(makers)
    except Exception as error:  # whatever it does not follow
        raise NotImplementedError(f"Torch-Pruning cannot prune it: {type(error).__name__}") from error
    return tuple(found)
