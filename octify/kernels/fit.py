"""Least squares fit of a table of taps by fewer taps: the paper's kernel size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octify.kernels.taps import Axis, Matrix, Taps

# A kernel that cannot be kept exactly is fitted for inputs like feature maps: neighbours correlate, and
# the mean (squared, in units of the variance) is what must survive first. Fitted to white noise, a
# dropped tap would take its share of the mean along. Calibration replaces the fit.
_NEIGHBOUR_CORRELATION = 0.9
_SQUARED_MEAN = 100.0


def _covariance(offsets: Sequence[int]) -> Matrix:
    grid = np.asarray(offsets, dtype=np.float64)
    distance: Matrix = np.abs(grid[:, None] - grid[None, :])
    return _NEIGHBOUR_CORRELATION**distance + _SQUARED_MEAN


def fit_taps(target: Taps, spread: int, size: int, stride: int, dilations: Sequence[int]) -> Taps:
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
            goal = np.zeros((len(samples), target.rows.shape[1]))
            for sample, row in table.items():
                goal[place[sample]] = row
            metric = _covariance(samples)
            solved = np.linalg.solve(basis.T @ metric @ basis, basis.T @ metric @ goal)
            rows = solved.astype(np.float64)
            rest = goal - basis @ rows
            error = round(float(np.trace(rest.T @ metric @ rest)), 9)
            centre = abs(start + dilation * (size - 1) / 2)
            if best is None or (error, centre) < best[:2]:
                best = (error, centre, Taps(start, stride, dilation, rows))
    assert best is not None
    taps = best[2]
    # The solve leaves rounding noise where a coefficient is exactly representable (1/2, 1, 0).
    return Taps(taps.start, taps.stride, taps.dilation, np.round(taps.rows, 11))


def low_dilations(axis: Axis) -> tuple[int, ...]:
    """Dilations worth trying at half resolution: half the original one, rounded either way, and itself."""
    return (max(1, axis.dilation // 2), max(1, (axis.dilation + 1) // 2), axis.dilation)
