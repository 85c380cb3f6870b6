"""Weights that a model computes in every forward, or shares, and that a conversion writes down as they are.

Pruning multiplies a weight by its mask, weight and spectral norm compute it from other parameters, by hooks
or as parametrizations. A converted layer has plain weights: nothing is lost for inference, but in training
the mask no longer holds, and the norm no longer applies. Layers that shared one weight have one each. The
report says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from octify.checks.words import some
from octify.compat import forward_pre_hooks
from octify.plan import Plan
from octify.trace import Traced

_MOST = 4


def computed_weights(traced: Traced, plan: Plan) -> list[str]:
    """One sentence for every kind of computed weights among the converted layers of ``plan``."""
    kinds: dict[str, list[str]] = {}
    for conv in plan.convs:
        if conv.converted:
            for kind in dict.fromkeys(_kinds(traced.whole.get_submodule(conv.path))):
                kinds.setdefault(kind, []).append(conv.path)
    return [_sentence(kind, paths) for kind, paths in kinds.items()]


def _kinds(layer: nn.Module) -> Iterator[str]:
    for hook in forward_pre_hooks(layer).values():
        if isinstance(hook, BasePruningMethod):
            yield _PRUNED
        elif isinstance(hook, WeightNorm):
            yield "weight norm"
        elif isinstance(hook, SpectralNorm):
            yield "spectral norm"
    if parametrize.is_parametrized(layer):
        lists: Any = layer.parametrizations
        for steps in lists.values():
            yield from (_name(step) for step in steps)


def tied_weights(traced: Traced, plan: Plan) -> list[str]:
    """A sentence on layers of the graph that share a parameter, where some are converted; none elsewhere."""
    called = {str(node.target) for node in traced.module.graph.find_nodes(op="call_module")}
    converted = {conv.path for conv in plan.convs if conv.converted}
    holders: dict[int, dict[int, str]] = {}
    for path, module in traced.whole.named_modules():
        for parameter in module.parameters() if path in called else ():
            holders.setdefault(id(parameter), {})[id(module)] = path
    groups = dict.fromkeys(
        tuple(paths.values())
        for paths in holders.values()
        if len(paths) > 1 and not converted.isdisjoint(paths.values())
    )
    if not groups:
        return []
    where = "; ".join(" and ".join(group) for group in list(groups)[:_MOST])
    more = f" and {len(groups) - _MOST} more groups" if len(groups) > _MOST else ""
    return [
        f"layers that share weights have weights of their own in the converted model ({where}{more}): "
        "calibration or training may give them other values"
    ]


_PRUNED = "pruning"
_NAMES = {
    "_WeightNorm": "weight norm",
    "_SpectralNorm": "spectral norm",
    "_Orthogonal": "orthogonality",
    "ComputedWeight": "what the model's code computes of its weights",
}


def _name(step: nn.Module) -> str:
    kind = type(step).__name__
    return _NAMES.get(kind, f"the parametrization {kind}")


def _sentence(kind: str, paths: Sequence[str]) -> str:
    where = some(paths, _MOST)
    if kind == _PRUNED:
        return (
            f"the masks of pruned layers are folded into their octave weights ({where}): where a mask is 0, "
            "training or calibration may give other values"
        )
    return f"{kind} is baked into the weights as they are now ({where}): in training it is not applied anew"
