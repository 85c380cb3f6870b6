"""Distance of a converted model's outputs from the original's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octify.compare.agreement import Agreement, OutputError
from octify.compat import tree_leaves
from octify.errors import OctifyError
from octify.trace.opened import opened

Output = Tensor | tuple[Tensor, ...]
"""One output over all inputs, or, where its size depends on the input's, one tensor for every size."""


@torch.no_grad()
def outputs(model: nn.Module, chunks: Sequence[tuple[Tensor, ...]]) -> list[Output]:
    """Compute every floating point output over all chunks, concatenated, on the CPU, in eval mode.

    Raises OctifyError if the model has no floating point output.
    """
    training = model.training
    model.eval()
    results = [model(*chunk) for chunk in chunks]
    model.train(training)
    return outputs_of(results)


def outputs_of(chunks: Iterable[Any]) -> list[Output]:
    """Like ``outputs``, of a model's results for every chunk."""
    results = [tensors_of(result) for result in chunks]
    if not all(results):
        raise OctifyError(
            "the model has no floating point output",
            why="calibration measures how far its outputs are from the original's",
            hint="calibrate the model without its last step (an argmax, say)",
        )
    return [_joined([part.float().cpu() for part in parts]) for parts in zip(*results, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Output:
    by_size: dict[torch.Size, list[Tensor]] = {}
    for part in parts:
        rows = part if part.ndim else part[None]
        by_size.setdefault(rows.shape[1:], []).append(rows)
    joined = tuple(torch.cat(same) for same in by_size.values())
    return joined[0] if len(joined) == 1 else joined


def apart(a: Tensor, b: Tensor) -> Tensor:
    """``a - b``; equal infinities (a class that can never be chosen) differ by nothing."""
    return torch.where(a == b, torch.zeros_like(a), a - b)


def finite(a: Tensor) -> Tensor:
    """``a`` with zeros for infinities."""
    return torch.where(torch.isfinite(a), a, torch.zeros_like(a))


def compare(original: Sequence[Output], converted: Sequence[Output], *, held_out: bool) -> Agreement:
    """The agreement of two models' ``outputs``."""
    ours = [part for output in original for part in _parts(output)]
    theirs = [part for output in converted for part in _parts(output)]
    error = sum(float(apart(a, b).double().square().sum()) for a, b in zip(ours, theirs, strict=True))
    spread = sum(float(_centred(finite(a)).double().square().sum()) for a in ours)
    first = ours[0]
    agreement = None
    if len(ours) == 1 and first.ndim == 2 and first.shape[1] > 1:
        agreement = float((first.argmax(1) == theirs[0].argmax(1)).double().mean())
    inputs = sum(len(part) for part in _parts(original[0]))
    return Agreement(inputs, held_out, OutputError((error / max(spread, 1e-30)) ** 0.5, agreement))


def in_own_units(results: Sequence[Output], original: Sequence[Output]) -> list[Output]:
    """``outputs`` with each channel of maps (N, C, ...) over the deviation of the original's.

    Of a detector, boxes in pixels and scores in [0, 1] then count alike. Deviations below a tenth of
    the middle one's count as that much. Values with fewer dimensions, and of several sizes, are as
    they are.
    """
    return [
        result / _deviations(whole) if isinstance(whole, Tensor) and isinstance(result, Tensor) else result
        for result, whole in zip(results, original, strict=True)
    ]


def _deviations(whole: Tensor) -> Tensor:
    """Deviation of every channel, to divide maps (N, C, ...) by; 1 for what is no map."""
    if whole.ndim < 3:
        return whole.new_ones(())
    around = (1, -1, *(1,) * (whole.ndim - 2))
    squares = _centred(finite(whole)).double().square().movedim(1, 0).flatten(1).mean(1)
    least = (0.01 * squares.median()).clamp_min(1e-30)
    return squares.clamp_min(least).sqrt().to(whole).reshape(around)


def advantage(
    original: Sequence[Output], one: Sequence[Output], other: Sequence[Output]
) -> tuple[float, float]:
    """Mean excess of the squared errors of ``other`` over those of ``one``, and its standard error.

    Computed from differences row by row (for most models input by input), which vary much less than the
    errors: both models fail at the same inputs. The standard error of a single row is infinite.
    """
    differences = _by_row(original, other) - _by_row(original, one)
    count = len(differences)
    error = float(differences.std()) / count**0.5 if count > 1 else float("inf")
    return float(differences.mean()), error


def typical_ratio(original: Sequence[Output], one: Sequence[Output], other: Sequence[Output]) -> float:
    """Geometric mean over the rows of the ratio of ``other``'s squared errors to those of ``one``.

    Rows are inputs for most models. With few inputs the geometric mean is more robust than a ratio of sums,
    which are dominated by their worst term.
    """
    before, after = _by_row(original, one), _by_row(original, other)
    least = 1e-9 * before.mean().clamp_min(1e-30)
    return float(((after + least) / (before + least)).log().mean().exp())


def _by_row(original: Sequence[Output], converted: Sequence[Output]) -> Tensor:
    """Squared errors by row: summed over the outputs if they have equally many rows, else concatenated."""
    rows = [
        _squares(apart(theirs, target))
        for output, approximation in zip(original, converted, strict=True)
        for target, theirs in zip(_parts(output), _parts(approximation), strict=True)
    ]
    alike = len({len(each) for each in rows}) == 1
    return torch.stack(rows).sum(0) if alike else torch.cat(rows)


def _squares(x: Tensor) -> Tensor:
    """The sum of squares of each row, (N,)."""
    return x.double().square().flatten(1).sum(1) if x.ndim > 1 else x.double().square()


def _parts(output: Output) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(0, keepdim=True) if len(values) > 1 else values


def tensors_of(output: Any) -> list[Tensor]:
    """The floating point tensors of a model's output."""

    return [t for t in tree_leaves(opened(output)) if isinstance(t, Tensor) and t.is_floating_point()]
