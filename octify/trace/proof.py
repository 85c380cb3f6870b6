"""A traced model that is known to compute what the original computes.

Tracing runs Python code on proxies, and code may ask what no proxy answers as a tensor would. So the graph is
run beside the original, and where they differ the module that is to blame is run as it is, or the model is
traced in parts, or it is refused: never is a model converted that would compute something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from octify.errors import InputSizeError, TraceError
from octify.trace.autocast import regions_noted, sentence_on
from octify.trace.blame import blamed
from octify.trace.changed import on_changes
from octify.trace.duplicate import duplicate, sharing_tensors
from octify.trace.exits import no_exit
from octify.trace.hooked import lost_hooks, silenced_hooks
from octify.trace.inner import leaves_of, place
from octify.trace.model import Opaque, Traced
from octify.trace.modes import modes_kept
from octify.trace.noise import Nearness, same
from octify.trace.parts import assemble
from octify.trace.sameness import difference, tensors_of
from octify.trace.trace import trace
from octify.trace.tracer import NO_LEAVES, first_line, forward_line
from octify.trace.training import causes, in_training
from octify.trace.trial import Trial, drawn, of_batch, of_size, run

_ROUNDS = 12  # modules that are run as they are before the model is taken in parts


@no_exit()
def proved(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    leaves: Mapping[str, Opaque] = NO_LEAVES,
    inside: bool = True,
) -> Traced:
    """``trace``, in such a way that the graph computes what ``model`` does (in eval mode).

    They are compared on random inputs like the examples, with another batch, and at another even size:
    values, types and form of the result, and buffers. What the model cannot run itself is left out, and
    nothing is compared on the ``meta`` device; ``remarks`` says so.

    ``leaves`` are run as they are from the first try on, and parts ``inside`` them and others are looked for:
    as in a plan that is replayed.

    Raises
    ------
    TraceError
        As ``trace``; or no way of tracing gives what the model computes.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    with modes_kept(model):
        return _proved(model, inputs, dict(leaves), inside)


def _proved(model: nn.Module, inputs: tuple[Tensor, ...], chosen: dict[str, Opaque], inside: bool) -> Traced:
    while True:
        traced = trace(model, inputs, leaves=chosen, inside=inside)
        if _is_meta(model, inputs):
            return _with_remarks(traced, [_ON_META])
        verdict = _Comparison(model, traced, inputs).verdict()
        if verdict.difference is not None and traced.inner is not None:
            # What cannot be traced is run as it is, whatever is in it.
            traced = replace(traced, inner=None, inside=False)
            verdict = _Comparison(model, traced, inputs).verdict()
        if verdict.difference is None:
            trained = in_training(model, runnable(traced), verdict.inputs)
            hooks = (*silenced_hooks(model, traced), *lost_hooks(model))
            return _with_remarks(traced, (*verdict.remarks, *hooks, *trained))
        cause = causes(model, verdict.inputs)
        shown = f"{verdict.difference}; {cause}" if cause else verdict.difference
        if traced.parts is not None or "" in chosen:
            raise TraceError(
                f"{type(model).__name__} cannot be converted",
                where=traced.parts.failure.where if traced.parts else forward_line(model),
                why=f"traced, it computes something else than the model: {shown}",
                hint="convert the part of the model that is a plain CNN (its backbone)",
            )
        path = blamed(model, traced, verdict.inputs) if len(chosen) < _ROUNDS else ""
        path = "" if path in chosen or path in {leaf.path for leaf in traced.opaque} else path  # it is a leaf
        module = model.get_submodule(path)
        reason = f"cannot be traced: traced, it computes something else ({shown})"
        chosen[path] = Opaque(path, type(module).__name__, reason, forward_line(module))


_ON_META = (
    "the traced graph was not compared with the model: tensors on the meta device have no values. Convert it "
    "on a device to be sure that both compute the same"
)


def _is_meta(model: nn.Module, inputs: Sequence[Tensor]) -> bool:
    return any(t.is_meta for t in (*inputs, *model.parameters(), *model.buffers()))


def _with_remarks(traced: Traced, remarks: Sequence[str]) -> Traced:
    return replace(traced, remarks=(*traced.remarks, *remarks))


@dataclass(frozen=True)
class Verdict:
    """The first difference, and the inputs that show it; with None, the inputs of the first comparison."""

    difference: str | None
    inputs: Sequence[Tensor]
    remarks: tuple[str, ...] = ()


class _Comparison:
    """The model and its graph, each a copy with tensors of its own, run on the same inputs in turn."""

    def __init__(self, model: nn.Module, traced: Traced, inputs: Sequence[Tensor]) -> None:
        self._model = model
        self._traced = traced
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._examples = [x.detach().to(self._device) for x in inputs]
        self._original: nn.Module = duplicate(model).eval()
        self._graph: nn.Module = runnable(traced).eval()
        self._has_regions = True

    def verdict(self) -> Verdict:
        """The comparisons, one after another, until one shows a difference."""
        with regions_noted() as regions:
            inputs, expected = self._first()
        if expected.error is not None:
            why = f"{type(expected.error).__name__}: {first_line(expected.error)}"
            remark = (
                f"the traced graph was not compared with the model, which itself stops on the example ({why})"
            )
            return Verdict(None, inputs, (remark,))
        first_difference = self._compare(inputs, expected)
        if first_difference is not None and regions and self._is_of_regions(inputs, expected):
            first_difference = None
        if first_difference is not None and self._is_itself_unsteady(inputs):
            remark = (
                "the traced graph was not compared with the model, which computes something else in every run"
            )
            return Verdict(None, inputs, (remark,))
        for other in self._others(inputs) if first_difference is None else ():
            expected = self._run(other)
            if expected.error is None:
                first_difference = self._compare(other, expected, elsewhere=True)
            if first_difference is not None:
                return Verdict(f"at an input of {_sizes(other)}, {first_difference}", other)
        remarks = (*([sentence_on(regions)] if regions else []), *on_changes(self._model, self._original))
        return Verdict(first_difference or self._buffers(), inputs, remarks)

    def _first(self) -> tuple[Sequence[Tensor], Trial]:
        """Random inputs, or the examples themselves where the model does not take random ones."""
        inputs = drawn(self._examples, self._device)
        expected = run(self._original, inputs)
        if expected.error is None:
            return inputs, expected
        self._original = duplicate(self._model).eval()
        return self._examples, run(self._original, self._examples)

    def _others(self, inputs: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        sizes = [] if self._traced.fixed_sizes else of_size(inputs)
        return [each for each in (of_batch(inputs), sizes) if each]

    def _compare(self, inputs: Sequence[Tensor], expected: Trial, *, elsewhere: bool = False) -> str | None:
        actual = run(self._graph, inputs)
        if elsewhere and isinstance(actual.error, InputSizeError):
            return None  # it says that it was made for another size: no wrong answer
        if actual.error is not None:
            return f"it stops with {type(actual.error).__name__}: {first_line(actual.error)}"
        with regions_noted(effective=self._has_regions):
            near = Nearness(self._model, inputs, expected.result)
            return difference(expected.result, actual.result, near)

    def _run(self, inputs: Sequence[Tensor]) -> Trial:
        """The model itself; without its regions of autocast where they are the only difference."""
        with regions_noted(effective=self._has_regions):
            return run(self._original, inputs)

    def _is_of_regions(self, inputs: Sequence[Tensor], expected: Trial) -> bool:
        """Return whether autocast in the model's code is all that makes the graph differ."""
        self._original = duplicate(self._model).eval()
        self._graph = runnable(self._traced).eval()
        self._has_regions = False
        plain = self._run(inputs)
        dtypes = [[t.dtype for t in tensors_of(trial.result)] for trial in (expected, plain)]
        alike = plain.error is None and dtypes[0] == dtypes[1] and self._compare(inputs, plain) is None
        self._has_regions = not alike
        return alike

    def _is_itself_unsteady(self, inputs: Sequence[Tensor]) -> bool:
        """Return whether the model gives another result with the same random numbers and the same buffers."""
        one, two = (run(duplicate(self._model).eval(), inputs) for _ in range(2))
        return one.error is None and difference(one.result, two.result, Nearness.exact) is not None

    def _buffers(self) -> str | None:
        """Differences between the buffers of both models."""
        own = dict(self._graph.named_buffers())
        for name, value in self._original.named_buffers():
            if name in own and not same(value, own[name]):
                return f"it does not write its buffer {name} as the model does"
        return None


def runnable(traced: Traced) -> Any:
    """Copy with tensors of its own: the user's model if nothing were rewritten."""
    return duplicate(_as_it_is(traced))


def _as_it_is(traced: Traced) -> nn.Module:
    model: nn.Module = traced.module
    if traced.parts is not None:
        inside = frozenset(path for part in traced.parts.members for path in part.inside)
        model = assemble(traced, traced.module, inside)
    if traced.inner is None:
        return model
    model = sharing_tensors(model)
    place(model, leaves_of(traced.inner, _as_it_is(traced.inner)))
    return model


def _sizes(inputs: Sequence[Tensor]) -> str:
    return " and ".join("x".join(map(str, x.shape)) for x in inputs)
