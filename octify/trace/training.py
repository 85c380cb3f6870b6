"""Differences between a traced graph and the model in training, where a graph has no branches.

A graph is that of eval mode. Layers keep their behaviour in training; the model's own code does not: what it
decides by ``self.training``, and what it computes without gradients. The lines that do so are noted in one
run of the model in train mode; where there are any, both are run in train mode, and what differs is told.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from octify.trace.asked import is_the_models
from octify.trace.duplicate import duplicate
from octify.trace.noise import Nearness, same
from octify.trace.sameness import difference, tensors_of
from octify.trace.trial import Trial, of_batch, run

_CONTEXTS = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.autocast)
# Functions of torch's that enter a context for the code that calls them: decorators, and derived contexts.
_ON_BEHALF = ("decorate_context", "decorate_autocast", "__enter__")
_SHOWN = 4


def in_training(model: nn.Module, graph: nn.Module, inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """Sentences on what ``graph``, traced of ``model``, does otherwise in train mode at ``inputs``."""
    batch = of_batch(inputs) or inputs  # of two samples at least: norms ask for them
    with noted() as lines:
        trained = run(duplicate(model).train(), batch)
    remarks = _modes(model, graph)
    if trained.error is not None or not lines:
        return remarks
    original: nn.Module = duplicate(model).train()
    own: nn.Module = duplicate(graph).train()
    expected, actual = run(original, batch, grad=True), run(own, batch, grad=True)
    differences = [
        *_results(expected, actual),
        *_gradients(original, expected, own, actual),
        *_buffers(original, own),
    ]
    if not differences:
        return remarks
    return (
        *remarks,
        f"in training the converted model does otherwise than the model: {'; '.join(differences)}. It is the "
        f"model's code in eval mode, and decides no more at: {_listed(lines)}",
    )


def causes(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Parts of ``model``'s code in eval mode that a graph cannot hold: contexts, writes to buffers."""
    own: nn.Module = duplicate(model).eval()
    before = {name: b.clone() for name, b in own.named_buffers()}
    with noted(modes=False) as lines:
        run(own, inputs)
    written = [name for name, b in own.named_buffers() if name in before and not same(b, before[name])]
    reasons = [f"it computes in a context at {_listed(lines)}"] if lines else []
    reasons += [f"its forward writes the buffers {_some(written)}"] if written else []
    return "; ".join(reasons)


def _modes(model: nn.Module, graph: nn.Module) -> tuple[str, ...]:
    """A model with a ``train`` of its own may hold layers in eval mode: the graph's ``train`` does not."""
    if type(model).train is nn.Module.train and all(
        type(m).train is nn.Module.train for m in model.modules()
    ):
        return ()
    kept = dict(graph.named_modules())
    copied: nn.Module = duplicate(model).train()
    frozen = [path for path, each in copied.named_modules() if path and not each.training and path in kept]
    if not frozen:
        return ()
    return (
        f"the model's own train() leaves layers in eval mode, and that of the converted model does not: "
        f"{_some(frozen)}; call eval() on them after train()",
    )


def _results(expected: Trial, actual: Trial) -> list[str]:
    if expected.error is not None:
        return []
    if actual.error is not None:
        return [f"it stops with {type(actual.error).__name__}"]
    with torch.no_grad():
        change = difference(expected.result, actual.result, Nearness.exact)
    return [] if change is None else [f"it returns {change}"]


def _gradients(original: nn.Module, expected: Trial, own: nn.Module, actual: Trial) -> list[str]:
    """Parameters that are trained in one and not in the other."""
    if expected.error is not None or actual.error is not None:
        return []
    there, here = _trained(original, expected.result), _trained(own, actual.result)
    both = dict(original.named_parameters()).keys() & dict(own.named_parameters()).keys()
    more, less = sorted((here - there) & both), sorted((there - here) & both)
    remarks = [f"it gives gradients to parameters that get none in the model ({_some(more)})"] if more else []
    return remarks + ([f"it gives no gradients to {_some(less)}"] if less else [])


def _trained(module: nn.Module, result: Any) -> set[str]:
    """Names of the parameters that a result depends on."""
    ends = [t for t in tensors_of(result) if t.requires_grad]
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not ends or not named:
        return set()
    try:
        grads = torch.autograd.grad([t.abs().sum() for t in ends], list(named.values()), allow_unused=True)
    except RuntimeError:  # what has no derivative cannot be trained
        return set()
    return {name for name, grad in zip(named, grads, strict=True) if grad is not None}


def _buffers(original: nn.Module, own: nn.Module) -> list[str]:
    here = dict(own.named_buffers())
    lost = [name for name, b in original.named_buffers() if name in here and not same(b, here[name])]
    return [f"its buffers get other values ({_some(lost)})"] if lost else []


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _listed(lines: Sequence[tuple[str, str]]) -> str:
    shown = [f"`{text}` ({where})" for text, where in lines]
    return _some(shown)


class _Mode:
    """In the place of the attribute ``training``: notes which line of a model's code reads it."""

    def __init__(self, note: Any) -> None:
        self._note = note

    def __get__(self, module: nn.Module | None, kind: type | None = None) -> Any:
        if module is None:
            raise AttributeError("training")
        try:
            value = module.__dict__["training"]
        except KeyError:
            raise AttributeError("training") from None
        self._note()
        return value

    def __set__(self, module: nn.Module, value: bool) -> None:
        module.__dict__["training"] = value

    def __delete__(self, module: nn.Module) -> None:
        del module.__dict__["training"]


@contextmanager
def noted(*, modes: bool = True) -> Iterator[list[tuple[str, str]]]:
    """Meanwhile lines (text, and ``file:line``) that enter a context (or read a mode) are noted."""
    lines: list[tuple[str, str]] = []

    def note() -> None:
        line = _line()
        if line is not None and line not in lines:
            lines.append(line)

    with ExitStack() as stack:
        if modes:
            stack.enter_context(patch.object(nn.Module, "training", _Mode(note), create=True))
        for kind in _CONTEXTS:
            stack.enter_context(patch.object(kind, "__enter__", _noting(kind.__enter__, note)))
        yield lines


def _noting(enter: Any, note: Any) -> Any:
    def entered(self: Any) -> Any:
        note()
        return enter(self)

    return entered


def _line() -> tuple[str, str] | None:
    """The line of the model's code that runs now; None where PyTorch's own code asks for itself."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_code.co_name in _ON_BEHALF:
        frame = frame.f_back
    if frame is None or not is_the_models(frame):
        return None
    file, number = frame.f_code.co_filename, frame.f_lineno
    return linecache.getline(file, number).strip() or "a line", f"{file}:{number}"
