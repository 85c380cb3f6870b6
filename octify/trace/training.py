"""Differences between a traced graph and the model in training, where a graph has no branches.

A graph is that of eval mode. Layers keep their behaviour in training; the model's own code does not: what it
decides by ``self.training``, what it computes without gradients, and what it changes in place behind dropout.
Both are run in train mode, and what differs is told, with the lines that were noted meanwhile.
"""

from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from octify.checks.words import some
from octify.errors import InputSizeError
from octify.trace.asked import is_the_models
from octify.trace.changed import changed_parameters
from octify.trace.draws import SameDraws
from octify.trace.duplicate import duplicate
from octify.trace.gradients import changed_gradients, written_by_hand
from octify.trace.noise import Nearness, same
from octify.trace.parted import Line, changed_in_eval_alone
from octify.trace.reached import reached, traced_back
from octify.trace.sameness import difference
from octify.trace.tracer import first_line, user_line
from octify.trace.trial import Trial, of_batch, run

_CONTEXTS = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.autocast)
# Functions of torch's that enter a context for the code that calls them: decorators, and derived contexts.
_ON_BEHALF = ("decorate_context", "decorate_autocast", "__enter__")
_SEEDS = 6  # with Python's random numbers: one of two ways is missed by chance once in 64 times


def in_training(model: nn.Module, graph: nn.Module, inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """Sentences on what ``graph``, traced of ``model``, does otherwise in train mode at ``inputs``."""
    remarks = _modes(model, graph)
    with noted() as lines:
        batch, original, expected = _trained(model, inputs)
    if expected.error is not None:
        return (*remarks, _not_compared(expected.error))
    own = _in_modes_of(original, graph)
    actual = traced_back(own, batch)
    if isinstance(actual.error, InputSizeError):  # it was made for one batch, and says so
        batch, original, expected = _once(model, inputs)
        own = _in_modes_of(original, graph)
        actual = traced_back(own, inputs)
    differences = _differences(original, expected, own, actual)
    seed = 0
    if not differences and expected.drew:
        seed, differences = _with_other_numbers(model, graph, batch)
    if not differences:
        return (*remarks, *_backward(model, graph, batch, expected))
    if expected.error is not None or _is_unsteady(model, batch, original, expected):
        return remarks
    if not _differ_with_the_same_draws(model, graph, batch, seed):
        return remarks
    reasons = _reasons(lines, changed_in_eval_alone(model, batch))
    return (
        *remarks,
        f"in training the converted model does otherwise than the model: {'; '.join(differences)}. It is the "
        f"model's code in eval mode{reasons}",
    )


def _trained(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[Sequence[Tensor], nn.Module, Trial]:
    """The inputs, a copy of ``model`` in train mode, and its run on them: on two samples if it takes them."""
    batch = of_batch(inputs)  # norms ask for two
    first = _once(model, batch) if batch else _once(model, inputs)
    return first if first[2].error is None or not batch else _once(model, inputs)


def _once(
    model: nn.Module, inputs: Sequence[Tensor], seed: int = 0
) -> tuple[Sequence[Tensor], nn.Module, Trial]:
    own: nn.Module = duplicate(model).train()
    return inputs, own, traced_back(own, inputs, seed)


def _in_modes_of(original: nn.Module, graph: nn.Module) -> nn.Module:
    """A copy of ``graph`` in train mode, less what the model's own ``train`` leaves in eval mode."""
    own: nn.Module = duplicate(graph).train()
    modes = {path: each.training for path, each in original.named_modules()}
    for path, each in own.named_modules():
        each.training = modes.get(path, True)
    return own


def _differences(original: nn.Module, expected: Trial, own: nn.Module, actual: Trial) -> list[str]:
    return [
        *_results(expected, actual),
        *_gradients(original, expected, own, actual),
        *_buffers(original, own),
    ]


def _with_other_numbers(
    model: nn.Module, graph: nn.Module, inputs: Sequence[Tensor]
) -> tuple[int, list[str]]:
    """Differences with other random numbers, by which Python code may go another way, and their seed."""
    for seed in range(1, _SEEDS):
        _, original, expected = _once(model, inputs, seed)
        own = _in_modes_of(original, graph)
        differences = _differences(original, expected, own, traced_back(own, inputs, seed))
        if differences:
            return seed, differences
    return 0, []


def _not_compared(error: Exception) -> str:
    line = user_line(error)
    place = f" ({line})" if line else ""
    return (
        "what the converted model does in training was not compared with the model, which in train mode "
        f"stops on the example: {type(error).__name__}: {first_line(error)}{place}"
    )


def _differ_with_the_same_draws(
    model: nn.Module, graph: nn.Module, inputs: Sequence[Tensor], seed: int
) -> bool:
    """Return whether they differ where no operation depends on the random numbers that others have drawn."""
    with SameDraws():  # type: ignore[no-untyped-call]
        _, original, expected = _once(model, inputs, seed)
        own = _in_modes_of(original, graph)
        actual = traced_back(own, inputs, seed)
    return expected.error is not None or bool(_differences(original, expected, own, actual))


def _is_unsteady(model: nn.Module, inputs: Sequence[Tensor], original: nn.Module, expected: Trial) -> bool:
    """Return whether the model itself does otherwise with the same random numbers."""
    _, again, second = _once(model, inputs)
    return second.error is not None or bool(_differences(original, expected, again, second))


def _reasons(lines: Sequence[Line], changed: Sequence[Line]) -> str:
    """Lines of the model's code that may be the cause of a difference in training."""
    reasons = [f"decides no more at: {_listed(lines)}"] if lines else []
    if changed:
        reasons.append(
            "takes for one tensor what are two in training (dropout returns its input itself in eval mode "
            f"alone), where one is changed in place: {_listed(changed)}"
        )
    return f", and {', and '.join(reasons)}" if reasons else "; which line is the cause is not known"


def causes(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Parts of ``model``'s code in eval mode that no graph holds: contexts, writes to its own tensors."""
    own: nn.Module = duplicate(model).eval()
    before = {name: b.clone() for name, b in own.named_buffers()}
    with noted(modes=False) as lines:
        run(own, inputs)
    written = [name for name, b in own.named_buffers() if name in before and not same(b, before[name])]
    reasons = [f"it computes in a context, or asks for one, at {_listed(lines)}"] if lines else []
    reasons += [f"its forward writes the buffers {some(written)}"] if written else []
    changed = changed_parameters(model, own)
    reasons += [f"its forward changes the parameters {some(changed)}"] if changed else []
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
        f"{some(frozen)}; call eval() on them after train()",
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
    there, here = reached(original, expected.result), reached(own, actual.result)
    if there is None or here is None:
        return []
    both = dict(original.named_parameters()).keys() & dict(own.named_parameters()).keys()
    more, less = sorted((here - there) & both), sorted((there - here) & both)
    remarks = [f"it gives gradients to parameters that get none in the model ({some(more)})"] if more else []
    return remarks + ([f"it gives no gradients to {some(less)}"] if less else [])


def _backward(
    model: nn.Module, graph: nn.Module, inputs: Sequence[Tensor], expected: Trial
) -> tuple[str, ...]:
    """A backward pass of the model's own that the graph does without, and what it computes otherwise."""
    names = written_by_hand(expected.result)
    if not names:
        return ()
    original: nn.Module = duplicate(model).train()
    changed = changed_gradients(original, _in_modes_of(original, graph), inputs)
    if not changed:
        return ()
    return (
        "in training the converted model does otherwise than the model: it has autograd's backward of "
        f"{', '.join(names)}, not the one that the model's code defines (torch.autograd.Function), and so "
        f"other gradients of {some(changed)}",
    )


def _buffers(original: nn.Module, own: nn.Module) -> list[str]:
    here = dict(own.named_buffers())
    lost = [
        name for name, b in original.named_buffers() if name in here and not Nearness.exact(b, here[name], 0)
    ]
    return [f"its buffers get other values ({some(lost)})"] if lost else []


def _listed(lines: Sequence[Line]) -> str:
    shown = [f"`{text}` ({where})" for text, where in lines]
    return some(shown)


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
def noted(*, modes: bool = True) -> Iterator[list[Line]]:
    """Meanwhile lines (text, and ``file:line``) that enter a context (or ask for a mode) are noted."""
    lines: list[Line] = []

    def note() -> None:
        line = _line()
        if line is not None and line not in lines:
            lines.append(line)

    with ExitStack() as stack:
        if modes:
            stack.enter_context(patch.object(nn.Module, "training", _Mode(note), create=True))
        for kind in _CONTEXTS:
            stack.enter_context(patch.object(kind, "__enter__", _noting(kind.__enter__, note)))
        stack.enter_context(patch.object(torch, "is_grad_enabled", _noting(torch.is_grad_enabled, note)))
        switch: Any = torch.set_grad_enabled  # a context that is entered when it is made
        stack.enter_context(patch.object(switch, "__init__", _noting(switch.__init__, note)))
        yield lines


def _noting(enter: Any, note: Any) -> Any:
    @functools.wraps(enter)
    def entered(*args: Any, **kwargs: Any) -> Any:
        note()
        return enter(*args, **kwargs)

    return entered


def _line() -> Line | None:
    """The line of the model's code that runs now; None where PyTorch's own code asks for itself."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_code.co_name in _ON_BEHALF:
        frame = frame.f_back
    if frame is None or not is_the_models(frame):
        return None
    file, number = frame.f_code.co_filename, frame.f_lineno
    return linecache.getline(file, number).strip() or "a line", f"{file}:{number}"
