"""The four octave kernels of any convolution, derived by composing taps.

Let ``C`` be a convolution, ``P`` 2x average pooling and ``U`` nearest-neighbour
upsampling by 2. The paths between high- and low-frequency channels are::

    HH = C        LH = C U        HL = P C        LL = P C U

Each is again a convolution whose kernel depends linearly on ``C``'s, axis by axis. One
axis of a convolution is a table of *taps*::

    y[i] = sum over offsets o of  rows[o] @ w * x[stride * i + o]

where ``w`` are the original taps along that axis. For an output pair ``y[2j], y[2j+1]``
(phase ``r`` = 0, 1) and an input that is constant on pairs, ``x[m] = u[m // 2]``::

    P C     offsets {o, o + s}, each weighted 1/2, stride 2 s
    P C U   offsets {floor((s r + o) / 2) : r = 0, 1}, each weighted 1/2, stride s
    C U     s even: offsets floor(o / 2), stride s / 2, no upsampling needed
            s odd:  one table per phase, offsets floor((s r + o) / 2), stride s

Everything else in this file recognises when such a table can be written more cheaply
(the convolution commutes with ``P`` or ``U``), or fits it into the original kernel size
(the paper's form, Chen et al. 2019, section 3.2).

Borders: zero padding is honoured. On an axis of odd length the low branch stores
ceil(n / 2) samples, and the last one may differ from ``P C`` of the projected input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from octify.kernels.fit import fit_taps, low_dilations
from octify.kernels.taps import (
    Axis,
    Matrix,
    Path,
    PathName,
    Scheme,
    Taps,
    add_row,
    from_table,
    joined,
    octave_axes,
    on_pooled,
    per_axis,
    plain,
)


def pool_conv(axis: Axis) -> Taps:
    """``P C``: high resolution in, low resolution out."""
    table: dict[int, Matrix] = {}
    for offset, row in plain(axis).table().items():
        add_row(table, offset, row / 2)
        add_row(table, offset + axis.stride, row / 2)
    return from_table(table, 2 * axis.stride)


def conv_up_phase(axis: Axis, phase: int) -> Taps:
    """``C U`` for outputs ``2 j + phase``: low resolution in."""
    table: dict[int, Matrix] = {}
    for offset, row in plain(axis).table().items():
        add_row(table, (axis.stride * phase + offset) // 2, row)
    return from_table(table, axis.stride)


def conv_up_strided(axis: Axis) -> Taps:
    """``C U`` for an even stride: low resolution in, the output's resolution out."""
    return Taps(*_halved(conv_up_phase(axis, 0)))


def _halved(taps: Taps) -> tuple[int, int, int, Matrix]:
    return taps.start, taps.stride // 2, taps.dilation, taps.rows


def pool_conv_up(axis: Axis) -> Taps:
    """``P C U``: low resolution in and out."""
    table: dict[int, Matrix] = {}
    for phase in (0, 1):
        for offset, row in conv_up_phase(axis, phase).table().items():
            add_row(table, offset, row / 2)
    return from_table(table, axis.stride)


def _commutes_with_up(axis: Axis) -> bool:
    """Return whether both phases of ``C U`` are one low-resolution convolution: ``C U = U C'``."""
    first, second = conv_up_phase(axis, 0), conv_up_phase(axis, 1)
    return axis.stride == 1 and first.offsets == second.offsets and np.array_equal(first.rows, second.rows)


def _pooled_or_none(axes: Sequence[Axis], tables: Mapping[Axis, Taps]) -> Path | None:
    pooled = {axis: on_pooled(taps) for axis, taps in tables.items()}
    exact = {axis: taps for axis, taps in pooled.items() if taps is not None}
    return joined(per_axis(axes, exact), before="pool") if len(exact) == len(tables) else None


def _exact_high_to_low(axes: Sequence[Axis]) -> Path:
    tables = {axis: pool_conv(axis) for axis in octave_axes(axes)}
    return _pooled_or_none(axes, tables) or joined(per_axis(axes, tables))


def _pooled_low_to_low(axes: Sequence[Axis], tables: Mapping[Axis, Taps]) -> Path | None:
    """``P C U`` on pooled low input; not with padding: an odd end would be averaged with its zeros."""
    return None if any(axis.pad_right for axis in tables) else _pooled_or_none(axes, tables)


def _exact_low_to_low(axes: Sequence[Axis]) -> Path:
    tables = {axis: pool_conv_up(axis) for axis in octave_axes(axes)}
    return _pooled_low_to_low(axes, tables) or joined(per_axis(axes, tables))


def _transposed(axes: Sequence[Axis]) -> Path | None:
    """``C U`` at stride 1 as a transposed convolution of stride 2: output ``2 i + r - 2 q`` for tap ``q``."""
    parts = []
    for axis in axes:
        if not axis.octave or axis.stride != 1:
            return None
        table: dict[int, Matrix] = {}
        for phase in (0, 1):
            for offset, row in conv_up_phase(axis, phase).table().items():
                add_row(table, phase - 2 * offset, row)
        taps = from_table(table, 2)
        if taps.start > 0:  # would need negative padding
            return None
        parts.append(taps)
    return joined(parts, transposed=True)


def _exact_low_to_high(axes: Sequence[Axis]) -> Path:
    octave = octave_axes(axes)
    if all(axis.stride % 2 == 0 for axis in octave):
        return joined(per_axis(axes, {axis: conv_up_strided(axis) for axis in octave}))
    if all(_commutes_with_up(axis) for axis in octave):
        return joined(per_axis(axes, {axis: conv_up_phase(axis, 0) for axis in octave}), after="up")
    return _transposed(axes) or joined([plain(axis) for axis in axes], before="up")


def _paper_high_to_low(axes: Sequence[Axis]) -> Path:
    fitted = {
        axis: fit_taps(pool_conv(axis), 2, axis.taps, axis.stride, low_dilations(axis))
        for axis in octave_axes(axes)
    }
    return joined(per_axis(axes, fitted), before="pool")


def _paper_low_to_low(axes: Sequence[Axis]) -> Path:
    tables = {axis: pool_conv_up(axis) for axis in octave_axes(axes)}
    pooled = _pooled_low_to_low(axes, tables)
    if pooled is not None and pooled.kernel_size == tuple(axis.taps for axis in axes):
        return pooled  # exact at the same cost: a strided 1x1 convolution of pooled input
    fitted = {
        axis: fit_taps(taps, 1, axis.taps, axis.stride, low_dilations(axis)) for axis, taps in tables.items()
    }
    return joined(per_axis(axes, fitted))


def _paper_low_to_high(axes: Sequence[Axis]) -> Path:
    octave = octave_axes(axes)
    if all(axis.stride % 2 == 0 for axis in octave):
        fitted = {
            axis: fit_taps(conv_up_strided(axis), 1, axis.taps, axis.stride // 2, low_dilations(axis))
            for axis in octave
        }
        return joined(per_axis(axes, fitted))
    if any(axis.stride != 1 for axis in octave):
        return joined([plain(axis) for axis in axes], before="up")
    # The best U C' for C U is C' = P C U, since P is U's adjoint up to scale and P U = 1.
    fitted = {axis: fit_taps(pool_conv_up(axis), 1, axis.taps, 1, low_dilations(axis)) for axis in octave}
    return joined(per_axis(axes, fitted), after="up")


def unpooled(name: PathName, axes: Sequence[Axis], up: bool = False) -> Path:
    """Return the exact path where neither ``P`` nor ``U`` may be moved past the padding.

    High input is never pooled first. With ``up`` low input is brought to full resolution first, for a
    padding that has no counterpart at half resolution.
    """
    octave = octave_axes(axes)
    if name == PathName.HIGH_TO_HIGH:
        return joined([plain(axis) for axis in axes])
    if name == PathName.LOW_TO_HIGH:
        return joined([plain(axis) for axis in axes], before="up")
    pooled = name == PathName.HIGH_TO_LOW or up
    tables = {axis: pool_conv(axis) if pooled else pool_conv_up(axis) for axis in octave}
    return joined(per_axis(axes, tables), before="up" if up and name == PathName.LOW_TO_LOW else "")


_RULES = {
    ("exact", PathName.HIGH_TO_LOW): _exact_high_to_low,
    ("exact", PathName.LOW_TO_HIGH): _exact_low_to_high,
    ("exact", PathName.LOW_TO_LOW): _exact_low_to_low,
    ("paper", PathName.HIGH_TO_LOW): _paper_high_to_low,
    ("paper", PathName.LOW_TO_HIGH): _paper_low_to_high,
    ("paper", PathName.LOW_TO_LOW): _paper_low_to_low,
}


@lru_cache(maxsize=4096)
def path(name: PathName, axes: tuple[Axis, ...], scheme: Scheme) -> Path:
    """Return the computation of the path ``name`` of a convolution with ``axes`` under ``scheme``.

    Source: docs/mathematics.md; "Drop an Octave" (arXiv 1904.05049), section 3.2, for
    ``paper``. ``high_to_high`` is the convolution itself under both.
    """
    if name == PathName.HIGH_TO_HIGH:
        return joined([plain(axis) for axis in axes])
    return _RULES[scheme, name](axes)
