"""``trace``: a model to its graph, or to the graphs of its parts, with the facts of every node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from octify.errors import TraceError
from octify.nn.settled import settle
from octify.trace.arguments import Arguments
from octify.trace.duplicate import duplicate
from octify.trace.exits import no_exit
from octify.trace.facts import Facts, MeasureError, measure
from octify.trace.inner import with_inner
from octify.trace.model import Opaque, Traced
from octify.trace.modes import modes_of
from octify.trace.parts import in_parts, share_in_parts
from octify.trace.rejected import RejectedError, rejection
from octify.trace.tracer import NO_LEAVES, Symbolic, arguments_of, first_line, forward_line, symbolic_trace
from octify.trace.trial import run

_ENOUGH = 0.9  # of the MACs: parts that reach so much are preferred to a graph for one size


@no_exit()
def trace(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    leaves: Mapping[str, Opaque] = NO_LEAVES,
    inside: bool = True,
) -> Traced:
    """Trace ``model`` on a deep copy in eval mode and measure it at ``example_inputs``.

    A model whose own ``forward`` cannot be traced is traced in parts: the largest of its submodules
    that can be (``octify.trace.parts``).

    Parameters
    ----------
    model:
        Any module whose forward takes tensors; it is left untouched.
    example_inputs:
        A tensor or a sequence of tensors, on any device including ``meta``.

    leaves:
        Modules that are run as they are, by path; with the model itself among them it is traced in parts.
    inside:
        Whether to look for parts inside modules that cannot be traced.

    Raises
    ------
    TraceError
        Neither the model nor any part of it can be traced, or it rejects the inputs (with the
        module's path).
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    arguments = arguments_of(model, inputs)
    own = duplicate(model).eval()
    settle(own)
    symbolic, facts, failure = None, None, None
    try:
        if "" in leaves:
            raise _distrusted(leaves[""])
        symbolic, facts = _measured(own, arguments, inputs, leaves)
        fixed = next((each for each in symbolic.fixed_sizes if each.fixes), None)
        if fixed is not None:
            failure = TraceError(
                "it fixes a size", where=fixed.where, why=f"it decides by a size: {fixed.reason}"
            )
    except RejectedError:
        raise
    except TraceError as error:
        failure = error
    if failure is not None:
        # Parts may keep the sizes open; a graph for one size alone is for what they do not reach.
        parts = in_parts(own, inputs, failure, training=model.training)
        if parts is not None:
            parts = replace(parts, modes=modes_of(model), leaves=tuple(leaves.values()))
        if parts is not None and (symbolic is None or _are_better(parts)):
            return with_inner(own, inputs, parts) if inside else replace(parts, inside=False)
        if symbolic is None:
            raise failure
    assert symbolic is not None and facts is not None
    traced = Traced(
        symbolic.module,
        arguments.inputs,
        facts,
        symbolic.opaque,
        model.training,
        dict(symbolic.root.named_modules(remove_duplicate=False)),
        symbolic.fixed_sizes,
        modes=modes_of(model),
        results=symbolic.results,
        leaves=tuple(leaves.values()),
    )
    return with_inner(own, inputs, traced) if inside else replace(traced, inside=False)


def _measured(
    own: nn.Module, arguments: Arguments, inputs: Sequence[Tensor], leaves: Mapping[str, Opaque]
) -> tuple[Symbolic, Mapping[str, Facts]]:
    """The graph of ``own`` and its facts; with values known where a graph without them cannot be run."""
    symbolic = symbolic_trace(own, arguments, leaves=leaves)
    try:
        return symbolic, measure(symbolic.module, inputs)
    except MeasureError as error:
        rejected = error
    if any(t.is_meta for t in (*inputs, *own.parameters())) or not _runs(own, inputs):
        raise rejection(symbolic.module, inputs, rejected) from rejected
    # The model's code asks what no proxy without a value can answer, and has gone another way.
    symbolic = symbolic_trace(own, arguments, leaves=leaves, sizes="known")
    try:
        return symbolic, measure(symbolic.module, inputs)
    except MeasureError as error:
        raise TraceError(
            f"{type(own).__name__} cannot be traced",
            where=forward_line(own),
            why=f"traced, it stops with {type(error.cause).__name__}: {first_line(error.cause)}",
            hint="convert the part of the model that is a plain CNN (its backbone)",
        ) from error


def _runs(own: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Return whether the model itself takes ``inputs``."""
    device = next((p.device for p in own.parameters()), torch.device("cpu"))
    return run(duplicate(own), [t.to(device) for t in inputs]).error is None


def _distrusted(root: Opaque) -> TraceError:
    return TraceError(
        f"{root.kind} cannot be traced",
        where=root.where,
        why=root.reason.removeprefix("cannot be traced: "),
        hint="convert the part of the model that is a plain CNN (its backbone)",
    )


def _are_better(parts: Traced) -> bool:
    """Return whether parts keep sizes open that the whole graph fixes, and reach nearly all of the model."""
    return share_in_parts(parts) >= _ENOUGH and not any(each.fixes for each in parts.fixed_sizes)
