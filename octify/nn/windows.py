"""Cutting a window out of a map, or every second position, on both resolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from octify.nn.functional import crop, dense_size, low_size, octave_axes, pool
from octify.nn.tellable import require_tellable


def low_window(
    low: Tensor,
    high: Tensor | None,
    size: Sequence[int],
    starts: Sequence[int],
    steps: Sequence[int],
) -> Tensor:
    """The low branch of a map of which positions ``start::step`` are taken along each spatial axis.

    Parameters
    ----------
    low:
        (N, L, *low_size), before.
    high:
        The high branch after, whose size the result follows; None if there is none.
    size:
        Spatial size of the result where there is no high branch.
    starts, steps:
        Along the halved axes either all steps are 1 and the starts even, or all steps are even:
        then a block gives at most one position, and the result is pooled.
    """
    size = size if high is None else high.shape[2:]
    halved = octave_axes(low.ndim - 2)
    strided = any(step > 1 for step, half in zip(steps, halved, strict=True) if half)
    for dim, (start, step, half) in enumerate(zip(starts, steps, halved, strict=True), start=2):
        first, every = (start // 2, max(1, step // 2)) if half else (start, step)
        index = (slice(None),) * dim + (slice(first or None, None, every),)
        low = low[index] if index[-1] != slice(None) else low
    if not strided:
        return crop(low, low_size(size))
    return pool(crop(low, size))


def low_window_alone(
    low: Tensor, windows: Sequence[slice], starts: Sequence[int], steps: Sequence[int]
) -> Tensor:
    """Like ``low_window``, for all channels low: the size follows from ``windows``, one for each axis."""
    whole = dense_size(None, low)
    size = [len(range(*window.indices(n))) for window, n in zip(windows, whole, strict=True)]
    require_tellable(None, size)
    return low_window(low, None, size, starts, steps)
