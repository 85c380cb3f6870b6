"""Gradients of parameters that a model's own ``autograd.Function`` decides.

Tracing goes through the forward of such a function; its backward is written by hand, and is not in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from octify.trace.duplicate import duplicate
from octify.trace.noise import Nearness
from octify.trace.sameness import tensors_of
from octify.trace.trial import run, seeded


def written_by_hand(result: Any) -> list[str]:
    """Names of the ``autograd.Function`` subclasses that ``result`` was computed by, sorted."""
    ahead = [t.grad_fn for t in tensors_of(result) if t.grad_fn is not None]
    seen = set(ahead)
    names = set()
    while ahead:
        function: Any = ahead.pop()
        if isinstance(function, BackwardCFunction):
            names.add(type(function).__name__.removesuffix("Backward"))
        following = {each for each, _ in function.next_functions if each is not None} - seen
        seen |= following
        ahead.extend(following)
    return sorted(names)


def changed_gradients(original: nn.Module, graph: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Names of parameters that get other gradients in ``graph`` than in ``original``, in their modes."""
    there, here = _gradients(original, inputs), _gradients(graph, inputs)
    both = [name for name in there if name in here]
    return [name for name in both if not Nearness.exact(there[name], here[name], 0)]


def _gradients(module: nn.Module, inputs: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """Gradients of a weighted sum of all results; none where no backward pass can be run."""
    own: nn.Module = duplicate(module)
    results = [t for t in tensors_of(run(own, inputs, grad=True).result) if t.requires_grad]
    parameters = {name: p for name, p in own.named_parameters() if p.requires_grad}
    if not results or not parameters:
        return {}
    with seeded():
        weights = [torch.rand(t.shape).to(t) for t in results]
    try:
        gradients = torch.autograd.grad(results, list(parameters.values()), weights, allow_unused=True)
    except RuntimeError:  # a function of the model's that cannot be differentiated here
        return {}
    return {
        name: gradient for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    }
