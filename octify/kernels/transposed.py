"""The four octave kernels of a transposed convolution.

One axis of a transposed convolution ``C`` of stride ``s`` spreads every input sample over the output::

    y[s * i + o] += w[m] * x[i],    o = dilation * m - padding

With ``x[i] = u[i // 2]`` (``U``) and ``y_low[q] = (y[2q] + y[2q + 1]) / 2`` (``P``) the paths are
again transposed convolutions (``r`` = 0, 1)::

    C U     offsets s r + o,                  stride 2 s
    P C U   offsets floor((s r + o) / 2),     each weighted 1/2, stride s
    P C     offsets floor(o / 2),             each weighted 1/2, stride s / 2, if s is even

Where such a table has equal taps at 2q and 2q + 1 it is ``U`` after one of half the stride: of a
2x2 kernel with stride 2, ``P C`` is a 1x1 convolution with the mean kernel, and ``P C U`` is that,
then ``U``. One of stride 1 is a plain convolution. ``P C`` with an odd stride is computed as it is
written. All of this is exact; Chen et al. have no transposed convolution, so both schemes use it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from octify.kernels.taps import Axis, Matrix, Path, PathName, Taps, add_row, from_table


@dataclass(frozen=True)
class TransposedAxis(Axis):
    """One spatial axis of a transposed convolution.

    The full output loses ``pad_left`` samples on the left and ``pad_right`` (the padding less the
    output padding) on the right.
    """

    def output_length(self, length: int) -> int:
        full = (length - 1) * self.stride + self.dilation * (self.taps - 1) + 1
        return full - self.pad_left - self.pad_right


def _plain(axis: Axis) -> Taps:
    return Taps(-axis.pad_left, axis.stride, axis.dilation, np.eye(axis.taps))


def _after_up(axis: Axis) -> Taps:
    """``C U``."""
    table: dict[int, Matrix] = {}
    for phase in (0, 1):
        for offset, row in _plain(axis).table().items():
            add_row(table, axis.stride * phase + offset, row)
    return from_table(table, 2 * axis.stride)


def _pooled_after_up(axis: Axis) -> Taps:
    """``P C U``."""
    table: dict[int, Matrix] = {}
    for phase in (0, 1):
        for offset, row in _plain(axis).table().items():
            add_row(table, (axis.stride * phase + offset) // 2, row / 2)
    return from_table(table, axis.stride)


def _pooled(axis: Axis) -> Taps | None:
    """``P C``; None for an odd stride, where the offsets depend on the sample's parity."""
    if axis.stride % 2:
        return None
    table: dict[int, Matrix] = {}
    for offset, row in _plain(axis).table().items():
        add_row(table, offset // 2, row / 2)
    return from_table(table, axis.stride // 2)


def _before_up(taps: Taps) -> Taps | None:
    """The table of half the stride whose ``U`` this is; None if it is none."""
    if taps.stride % 2:
        return None
    table = taps.table()
    halves = {offset // 2 for offset, row in table.items() if row.any()}
    zero = np.zeros(taps.rows.shape[1])
    pairs = {q: (table.get(2 * q, zero), table.get(2 * q + 1, zero)) for q in halves}
    if not all(np.array_equal(left, right) for left, right in pairs.values()):
        return None
    return from_table({q: left for q, (left, _) in pairs.items()}, taps.stride // 2)


def joined(parts: Sequence[Taps], after: str = "") -> Path:
    """The path of ``parts``: a plain convolution where every stride is 1, else a transposed one."""
    transposed = any(part.stride != 1 for part in parts)
    return Path(
        "",
        after,  # type: ignore[arg-type]
        transposed,
        tuple(part.start if transposed else -part.offsets[-1] for part in parts),
        tuple(part.stride for part in parts),
        tuple(part.dilation for part in parts),
        tuple(part.rows if transposed else part.rows[::-1].copy() for part in parts),
    )


def per_axis(axes: Sequence[Axis], rule: Mapping[Axis, Taps]) -> list[Taps]:
    return [rule[axis] if axis.octave else _plain(axis) for axis in axes]


@lru_cache(maxsize=1024)
def transposed_path(name: PathName, axes: tuple[Axis, ...]) -> Path:
    """Return the computation of the path ``name`` of a transposed convolution with ``axes``.

    In a transposed path, kernel element ``m`` of input ``i`` lands on output
    ``stride * i + start + dilation * m``.
    """
    octave = list(dict.fromkeys(axis for axis in axes if axis.octave))
    if name == PathName.HIGH_TO_HIGH:
        return joined([_plain(axis) for axis in axes])
    if name == PathName.LOW_TO_HIGH:
        return joined(per_axis(axes, {axis: _after_up(axis) for axis in octave}))
    if name == PathName.HIGH_TO_LOW:
        pooled = {axis: taps for axis in octave if (taps := _pooled(axis)) is not None}
        if len(pooled) < len(octave):
            return joined([_plain(axis) for axis in axes], after="pool")
        return joined(per_axis(axes, pooled))
    tables = {axis: _pooled_after_up(axis) for axis in octave}
    smaller = {axis: half for axis, taps in tables.items() if (half := _before_up(taps)) is not None}
    if len(smaller) == len(tables):
        return joined(per_axis(axes, smaller), after="up")
    return joined(per_axis(axes, tables))


def path_share(name: PathName, axes: tuple[Axis, ...]) -> float:
    """MACs of a path over those of ``high_to_high``, for as many channels."""
    recipe = transposed_path(name, axes)
    share = math.prod(recipe.kernel_size) / math.prod(axis.taps for axis in axes)
    return share / 2 ** sum(axis.octave for axis in axes) if name.source == "low" else share
