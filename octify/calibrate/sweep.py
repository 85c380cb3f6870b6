"""The error that refitting leaves when channels become low, one set of channels after another.

For one reader, a covariance matrix over ``[A, L, Y]``: the features A it reads now (the taps of x for
high, of ``Pi x`` for low channels), the taps L of ``Pi x`` of the channels that may become low, and
its outputs Y. *Swept* on A (Gaussian elimination in place; Goodnight, "A tutorial on the SWEEP
operator", 1979) it holds, with ``Q = cov_AA^-1``, everything that a choice asks for:

    T_AA = -Q,  T_AR = Q cov_AR,  T_RR = cov_RR - cov_RA Q cov_AR      (R = L and Y)

A channel that becomes low leaves A with its taps H and enters it with its taps L: two pivots of the
rank of its taps, so a round costs a fraction of inverting anew, and gives the same matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor


def swept(cov: Tensor, count: int) -> Tensor:
    """``cov`` (N, N), positive definite in its first ``count`` features, swept on those; in place."""
    active, rest = slice(0, count), slice(count, None)
    factor = torch.linalg.cholesky(cov[active, active])
    solved = torch.cholesky_solve(cov[active, rest], factor)
    cov[rest, rest].addmm_(cov[rest, active], solved, alpha=-1)
    cov[active, rest] = solved
    cov[rest, active] = solved.T
    cov[active, active] = -torch.cholesky_inverse(factor)
    return cov


def without(matrix: Tensor, gone: Tensor) -> Tensor:
    """A swept matrix swept back on the features ``gone`` (indices), which are then left out."""
    keep = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device)
    keep[gone] = False
    rest = keep.nonzero().flatten()
    column = matrix[rest[:, None], gone]
    left = matrix[rest[:, None], rest]
    return left.addmm_(column, torch.linalg.solve(matrix[gone[:, None], gone], column.T), alpha=-1)


def entered(matrix: Tensor, new: Tensor) -> Tensor:
    """A swept matrix swept on the features ``new`` (indices) as well; in place."""
    inverse = torch.linalg.inv(matrix[new[:, None], new])
    column = matrix[:, new]
    scaled = column @ inverse
    matrix.addmm_(scaled, column.T, alpha=-1)
    matrix[:, new] = scaled
    matrix[new, :] = scaled.T
    matrix[new[:, None], new] = -inverse
    return matrix


class Sweep:
    """A reader's swept matrix, asked for costs and told of choices.

    Parameters
    ----------
    matrix:
        Swept on A, over ``[A, L, Y]``.
    high, low:
        (candidates, taps): where the taps of x, and of Pi x, of each channel that may become low are.
    outputs:
        How many features Y has, the last ones.
    kept:
        (candidates,): the share of what is regained that lasts (``production``); all of it by default.
    """

    def __init__(
        self, matrix: Tensor, high: Tensor, low: Tensor, outputs: int, kept: Tensor | None = None
    ) -> None:
        self.matrix, self.high, self.low, self.outputs = matrix, high, low, outputs
        self.kept = matrix.new_ones(len(high)) if kept is None else kept

    def costs(self) -> Tensor:
        """What making each candidate low adds to the error that refitting leaves, (candidates,).

        lost    tr(S_H' Q_HH^-1 S_H)
        regained tr(r' M^-1 r),   r = T_LY + B_H Q_HH^-1 S_H,   M = T_LL + B_H Q_HH^-1 B_H'

        with ``S_H = T_HY`` and ``B_H = T_LH`` (block matrix inversion).
        """
        t, h, low = self.matrix, self.high, self.low
        y = torch.arange(len(t) - self.outputs, len(t), device=t.device)
        q = -t[h[:, :, None], h[:, None, :]]
        s, b = t[h[:, :, None], y], t[low[:, :, None], h[:, None, :]]
        solved = torch.linalg.solve(q, torch.cat([s, b.transpose(1, 2)], dim=2))
        qs, qb = solved[:, :, : self.outputs], solved[:, :, self.outputs :]
        r = t[low[:, :, None], y] + b @ qs
        m = t[low[:, :, None], low[:, None, :]] + b @ qb
        lost, regained = (s * qs).sum((1, 2)), (r * torch.linalg.solve(m, r)).sum((1, 2))
        return torch.sub(lost, self.kept * regained)

    def lower(self, chosen: Tensor) -> None:
        """Make the candidates ``chosen`` (a mask) low; they are candidates no longer."""
        gone, new = self.high[chosen].flatten(), self.low[chosen].flatten()
        if not len(gone):
            return
        place = torch.ones(len(self.matrix), dtype=torch.long, device=gone.device)
        place[gone] = 0
        place = place.cumsum(0) - 1
        self.matrix = entered(without(self.matrix, gone), place[new])
        self.high, self.low = place[self.high[~chosen]], place[self.low[~chosen]]
        self.kept = self.kept[~chosen]
