"""Parameters that a result depends on, found by autograd's graph: no gradient is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from octify.trace.sameness import tensors_of
from octify.trace.trial import Trial, run

_HIDING = "CheckpointFunction"  # its graph is made in the backward pass


class _DroppedError(RuntimeError):
    """A backward pass through a graph whose tensors were not kept."""


def traced_back(module: nn.Module, inputs: Sequence[Tensor], seed: int = 0) -> Trial:
    """``run`` with gradients enabled, in no more memory than without: no activation is kept.

    A module that computes gradients itself is run once more, as usual.
    """
    try:
        with saved_tensors_hooks(lambda tensor: None, _missing):
            trial = run(module, inputs, grad=True, seed=seed)
    except _DroppedError:  # raised past the model's own handling
        return run(module, inputs, grad=True, seed=seed)
    return run(module, inputs, grad=True, seed=seed) if isinstance(trial.error, _DroppedError) else trial


def _missing(saved: Any) -> Tensor:
    raise _DroppedError("no tensor was kept for a backward pass")


def reached(module: nn.Module, result: Any) -> set[str] | None:
    """Names of the parameters of ``module`` that ``result`` depends on; None where autograd does not tell."""
    names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    tensors = tensors_of(result)
    members = {names[id(t)] for t in tensors if id(t) in names}
    ahead = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(ahead)
    while ahead:
        function = ahead.pop()
        if _HIDING in function.name():
            return None
        variable = getattr(function, "variable", None)  # of the node that adds to a leaf's gradient
        if id(variable) in names:
            members.add(names[id(variable)])
        following = {each for each, _ in function.next_functions if each is not None} - seen
        seen |= following
        ahead.extend(following)
    return members
