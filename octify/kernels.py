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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

Scheme = Literal["paper", "exact"]
Exchange = Literal["full", "spatial"]  # "spatial": 1x1 convolutions have no high-to-low and low-to-high paths
PathName = Literal["high_to_high", "high_to_low", "low_to_high", "low_to_low"]
PATHS: tuple[PathName, ...] = ("high_to_high", "high_to_low", "low_to_high", "low_to_low")
Matrix = npt.NDArray[np.float64]

# A kernel that cannot be kept exactly is fitted for inputs like feature maps: neighbours correlate, and
# the mean (squared, in units of the variance) is what must survive first. Fitted to white noise, a
# dropped tap would take its share of the mean along. Calibration replaces the fit.
_NEIGHBOUR_CORRELATION = 0.9
_SQUARED_MEAN = 100.0


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution: all lengths in samples of that axis.

    ``octave`` says whether low-frequency channels are halved along it.
    """

    taps: int
    stride: int = 1
    pad_left: int = 0
    pad_right: int = 0
    dilation: int = 1
    octave: bool = True

    def output_length(self, length: int) -> int:
        """Length of the convolution's output for an input of ``length``."""
        return (
            length + self.pad_left + self.pad_right - self.dilation * (self.taps - 1) - 1
        ) // self.stride + 1


@dataclass(frozen=True)
class SameAxis(Axis):
    """An axis padded so that the output has ceil(n / stride) samples at any input length n.

    ``pad_left`` and ``pad_right`` are those of one length. At lengths whose padding differs the octave
    kernels keep this ``pad_left``: an output then looks at most one sample aside.
    """

    def output_length(self, length: int) -> int:
        return -(-length // self.stride)


@dataclass(frozen=True)
class Taps:
    """``y[i] = sum_m rows[m] @ w * x[stride * i + start + dilation * m]``; rows is (new taps, old taps)."""

    start: int
    stride: int
    dilation: int
    rows: Matrix

    @property
    def offsets(self) -> list[int]:
        """Input positions read for output 0."""
        return [self.start + self.dilation * m for m in range(len(self.rows))]

    def table(self) -> dict[int, Matrix]:
        """Offset -> weights of the original taps."""
        return dict(zip(self.offsets, self.rows, strict=True))


@dataclass(frozen=True)
class Path:
    """How one of the four paths is computed: ``before``, a convolution, ``after``.

    ``matrices[a]`` maps the original kernel's taps along axis ``a`` to the new ones. The
    convolution reads ``x[stride * i + start + dilation * m]`` along each axis, so ``-start``
    is its left padding. When ``transposed`` it is a transposed convolution of stride 2 whose
    kernel element ``m`` lands on output ``2 i + start + m``. ``kernel_size``: taps per axis.
    """

    before: Literal["", "pool", "up"]
    after: Literal["", "up", "pool"]
    transposed: bool
    starts: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    kernel_size: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        # Kept as numbers: asked of the matrices, a compiled forward would depend on every one of them.
        object.__setattr__(self, "kernel_size", tuple(len(matrix) for matrix in self.matrices))


def _from_table(table: Mapping[int, Matrix], stride: int) -> Taps:
    """The densest regular grid of taps that holds every offset of ``table``."""
    offsets = sorted(table)
    step = math.gcd(*(b - a for a, b in pairwise(offsets))) or 1
    count = (offsets[-1] - offsets[0]) // step + 1
    zero = np.zeros_like(table[offsets[0]])
    rows = [table.get(offsets[0] + step * m, zero) for m in range(count)]
    return Taps(offsets[0], stride, step, np.stack(rows))


def _add(table: dict[int, Matrix], offset: int, row: Matrix) -> None:
    table[offset] = table[offset] + row if offset in table else row


def plain(axis: Axis) -> Taps:
    """The convolution itself."""
    return Taps(-axis.pad_left, axis.stride, axis.dilation, np.eye(axis.taps))


def pool_conv(axis: Axis) -> Taps:
    """``P C``: high resolution in, low resolution out."""
    table: dict[int, Matrix] = {}
    for offset, row in plain(axis).table().items():
        _add(table, offset, row / 2)
        _add(table, offset + axis.stride, row / 2)
    return _from_table(table, 2 * axis.stride)


def conv_up_phase(axis: Axis, phase: int) -> Taps:
    """``C U`` for outputs ``2 j + phase``: low resolution in."""
    table: dict[int, Matrix] = {}
    for offset, row in plain(axis).table().items():
        _add(table, (axis.stride * phase + offset) // 2, row)
    return _from_table(table, axis.stride)


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
            _add(table, offset, row / 2)
    return _from_table(table, axis.stride)


def on_pooled(taps: Taps) -> Taps | None:
    """The same map written on pooled input, if it reads both samples of every pair alike."""
    if taps.stride % 2:
        return None
    table = taps.table()
    halves = {offset // 2 for offset, row in table.items() if row.any()}  # a grid has empty places
    zero = np.zeros(taps.rows.shape[1])
    pairs = {q: (table.get(2 * q, zero), table.get(2 * q + 1, zero)) for q in halves}
    if not all(np.array_equal(left, right) for left, right in pairs.values()):
        return None
    return _from_table({q: left + right for q, (left, right) in pairs.items()}, taps.stride // 2)


def _commutes_with_up(axis: Axis) -> bool:
    """Whether both phases of ``C U`` are the same low-resolution convolution, so that ``C U = U C'``."""
    first, second = conv_up_phase(axis, 0), conv_up_phase(axis, 1)
    return axis.stride == 1 and first.offsets == second.offsets and np.array_equal(first.rows, second.rows)


def _covariance(offsets: Sequence[int]) -> Matrix:
    grid = np.asarray(offsets, dtype=np.float64)
    distance: Matrix = np.abs(grid[:, None] - grid[None, :])
    return _NEIGHBOUR_CORRELATION**distance + _SQUARED_MEAN


def _fit(target: Taps, spread: int, size: int, stride: int, dilations: Sequence[int]) -> Taps:
    """The best ``size`` taps for ``target`` when each covers ``spread`` neighbouring samples equally.

    ``spread`` 2 means the taps read pooled input. Best in the mean square over inputs with
    neighbour correlation ``_NEIGHBOUR_CORRELATION``, over the grids of the given dilations;
    among equals the grid whose left padding is nearest to "same", which needs no explicit padding.
    """
    table = target.table()
    low, high = min(table) // spread, max(table) // spread
    best: tuple[float, float, Taps] | None = None
    for dilation in sorted(set(dilations)):
        for start in range(low - dilation * (size - 1), high + 1):
            grid = [start + dilation * m for m in range(size)]
            samples = sorted({spread * q + e for q in grid for e in range(spread)} | set(table))
            place = {sample: row for row, sample in enumerate(samples)}
            basis = np.zeros((len(samples), size))
            for column, q in enumerate(grid):
                for e in range(spread):
                    basis[place[spread * q + e], column] = 1 / spread
            wanted = np.zeros((len(samples), target.rows.shape[1]))
            for sample, row in table.items():
                wanted[place[sample]] = row
            metric = _covariance(samples)
            solved = np.linalg.solve(basis.T @ metric @ basis, basis.T @ metric @ wanted)
            rows = solved.astype(np.float64)
            rest = wanted - basis @ rows
            error = round(float(np.trace(rest.T @ metric @ rest)), 9)
            centre = abs(start + dilation * (size - 1) / 2)
            if best is None or (error, centre) < best[:2]:
                best = (error, centre, Taps(start, stride, dilation, rows))
    assert best is not None
    taps = best[2]
    # The solve leaves rounding noise where a coefficient is exactly representable (1/2, 1, 0).
    return Taps(taps.start, taps.stride, taps.dilation, np.round(taps.rows, 11))


def _low_dilations(axis: Axis) -> tuple[int, ...]:
    """Dilations worth trying at half resolution: half the original one, rounded either way, and itself."""
    return (max(1, axis.dilation // 2), max(1, (axis.dilation + 1) // 2), axis.dilation)


def _joined(
    parts: Sequence[Taps],
    before: Literal["", "pool", "up"] = "",
    after: Literal["", "up"] = "",
    transposed: bool = False,
) -> Path:
    return Path(
        before,
        after,
        transposed,
        tuple(part.start for part in parts),
        tuple(part.stride for part in parts),
        tuple(part.dilation for part in parts),
        tuple(part.rows for part in parts),
    )


def _per_axis(axes: Sequence[Axis], rule: Mapping[Axis, Taps]) -> list[Taps]:
    return [rule[axis] if axis.octave else plain(axis) for axis in axes]


def _pooled_or_none(axes: Sequence[Axis], tables: Mapping[Axis, Taps]) -> Path | None:
    pooled = {axis: on_pooled(taps) for axis, taps in tables.items()}
    found = {axis: taps for axis, taps in pooled.items() if taps is not None}
    return _joined(_per_axis(axes, found), before="pool") if len(found) == len(tables) else None


def _octave_axes(axes: Sequence[Axis]) -> list[Axis]:
    return list(dict.fromkeys(axis for axis in axes if axis.octave))


def _exact_high_to_low(axes: Sequence[Axis]) -> Path:
    tables = {axis: pool_conv(axis) for axis in _octave_axes(axes)}
    return _pooled_or_none(axes, tables) or _joined(_per_axis(axes, tables))


def _pooled_low_to_low(axes: Sequence[Axis], tables: Mapping[Axis, Taps]) -> Path | None:
    """``P C U`` on pooled low input; not with padding: an odd end would be averaged with its zeros."""
    return None if any(axis.pad_right for axis in tables) else _pooled_or_none(axes, tables)


def _exact_low_to_low(axes: Sequence[Axis]) -> Path:
    tables = {axis: pool_conv_up(axis) for axis in _octave_axes(axes)}
    return _pooled_low_to_low(axes, tables) or _joined(_per_axis(axes, tables))


def _transposed(axes: Sequence[Axis]) -> Path | None:
    """``C U`` at stride 1 as a transposed convolution of stride 2: output ``2 i + r - 2 q`` for tap ``q``."""
    parts = []
    for axis in axes:
        if not axis.octave or axis.stride != 1:
            return None
        table: dict[int, Matrix] = {}
        for phase in (0, 1):
            for offset, row in conv_up_phase(axis, phase).table().items():
                _add(table, phase - 2 * offset, row)
        taps = _from_table(table, 2)
        if taps.start > 0:  # would need negative padding
            return None
        parts.append(taps)
    return _joined(parts, transposed=True)


def _exact_low_to_high(axes: Sequence[Axis]) -> Path:
    octave = _octave_axes(axes)
    if all(axis.stride % 2 == 0 for axis in octave):
        return _joined(_per_axis(axes, {axis: conv_up_strided(axis) for axis in octave}))
    if all(_commutes_with_up(axis) for axis in octave):
        return _joined(_per_axis(axes, {axis: conv_up_phase(axis, 0) for axis in octave}), after="up")
    return _transposed(axes) or _joined([plain(axis) for axis in axes], before="up")


def _paper_high_to_low(axes: Sequence[Axis]) -> Path:
    fitted = {
        axis: _fit(pool_conv(axis), 2, axis.taps, axis.stride, _low_dilations(axis))
        for axis in _octave_axes(axes)
    }
    return _joined(_per_axis(axes, fitted), before="pool")


def _paper_low_to_low(axes: Sequence[Axis]) -> Path:
    tables = {axis: pool_conv_up(axis) for axis in _octave_axes(axes)}
    pooled = _pooled_low_to_low(axes, tables)
    if pooled is not None and pooled.kernel_size == tuple(axis.taps for axis in axes):
        return pooled  # exact at the same cost: a strided 1x1 convolution of pooled input
    fitted = {
        axis: _fit(taps, 1, axis.taps, axis.stride, _low_dilations(axis)) for axis, taps in tables.items()
    }
    return _joined(_per_axis(axes, fitted))


def _paper_low_to_high(axes: Sequence[Axis]) -> Path:
    octave = _octave_axes(axes)
    if all(axis.stride % 2 == 0 for axis in octave):
        fitted = {
            axis: _fit(conv_up_strided(axis), 1, axis.taps, axis.stride // 2, _low_dilations(axis))
            for axis in octave
        }
        return _joined(_per_axis(axes, fitted))
    if any(axis.stride != 1 for axis in octave):
        return _joined([plain(axis) for axis in axes], before="up")
    # The best U C' for C U is C' = P C U, since P is U's adjoint up to scale and P U = 1.
    fitted = {axis: _fit(pool_conv_up(axis), 1, axis.taps, 1, _low_dilations(axis)) for axis in octave}
    return _joined(_per_axis(axes, fitted), after="up")


def unpooled(name: PathName, axes: Sequence[Axis], up: bool = False) -> Path:
    """The exact path where neither ``P`` nor ``U`` may be moved past the padding.

    High input is never pooled first. With ``up`` low input is brought to full resolution first, for a
    padding that has no counterpart at half resolution.
    """
    octave = _octave_axes(axes)
    if name == "high_to_high":
        return _joined([plain(axis) for axis in axes])
    if name == "low_to_high":
        return _joined([plain(axis) for axis in axes], before="up")
    pooled = name == "high_to_low" or up
    tables = {axis: pool_conv(axis) if pooled else pool_conv_up(axis) for axis in octave}
    return _joined(_per_axis(axes, tables), before="up" if up and name == "low_to_low" else "")


_RULES = {
    ("exact", "high_to_low"): _exact_high_to_low,
    ("exact", "low_to_high"): _exact_low_to_high,
    ("exact", "low_to_low"): _exact_low_to_low,
    ("paper", "high_to_low"): _paper_high_to_low,
    ("paper", "low_to_high"): _paper_low_to_high,
    ("paper", "low_to_low"): _paper_low_to_low,
}


@lru_cache(maxsize=4096)
def path(name: PathName, axes: tuple[Axis, ...], scheme: Scheme) -> Path:
    """How the path ``name`` of a convolution with these ``axes`` is computed under ``scheme``.

    Source: section 1 of the design; "Drop an Octave" (arXiv 1904.05049), section 3.2, for
    ``paper``. ``high_to_high`` is the convolution itself under both.
    """
    if name == "high_to_high":
        return _joined([plain(axis) for axis in axes])
    return _RULES[scheme, name](axes)
