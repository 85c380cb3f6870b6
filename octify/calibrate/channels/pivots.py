"""The error that refitting leaves when channels become low, one set of channels after another.

For one reader, a covariance matrix over ``[A, L, Y]``: the features A it reads now (the taps of x for
high, of ``Pi x`` for low channels), the taps L of ``Pi x`` of the channels that may become low, and
its outputs Y. *Swept* on A (Gaussian elimination in place; Goodnight, "A tutorial on the SWEEP
operator", 1979) it holds, with ``Q = cov_AA^-1``, everything that a choice asks for:

    T_AA = -Q,  T_AR = Q cov_AR,  T_RR = cov_RR - cov_RA Q cov_AR      (R = L and Y)

A channel that becomes low leaves A with its taps H and enters it with its taps L: a pivot of twice
the rank of its taps, so a round costs a fraction of inverting anew, and gives the same matrix.
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


def exchanged(matrix: Tensor, gone: Tensor, new: Tensor) -> Tensor:
    """A swept matrix after the features ``gone`` (indices) have left A and ``new`` have entered it.

    One principal pivot on both, for which T_PP, negative definite on one part and positive on the
    other, has an inverse. What is gone has no rows in the result.
    """
    keep = torch.ones(len(matrix), dtype=torch.long, device=matrix.device)
    keep[gone] = 0
    place = keep.cumsum(0) - 1
    rest, pivot, entered = keep.nonzero().flatten(), torch.cat([gone, new]), place[new]
    inverse = torch.linalg.inv(matrix[pivot[:, None], pivot])
    left = matrix.index_select(0, rest)
    column = left.index_select(1, pivot)
    left = left.index_select(1, rest)
    scaled = column @ inverse
    left.addmm_(scaled, column.T, alpha=-1)
    left[:, entered] = scaled[:, len(gone) :]
    left[entered, :] = scaled[:, len(gone) :].T
    left[entered[:, None], entered] = -inverse[len(gone) :, len(gone) :]
    return left


class Sweep:
    """A reader's swept matrix, asked for costs and told of choices.

    Parameters
    ----------
    matrix:
        Swept on A, over ``[A, L, Y]``.
    high, low:
        (candidates, taps): where the taps of x, and of Pi x, of each channel that may become low are.
    outputs:
        Number of features of Y, which are the last ones.
    """

    def __init__(self, matrix: Tensor, high: Tensor, low: Tensor, outputs: int) -> None:
        self.matrix, self.high, self.low, self.outputs = matrix, high, low, outputs

    def error(self) -> float:
        """Residual variance of the outputs after refitting."""
        return float(self.matrix.diagonal()[-self.outputs :].sum())

    def costs(self) -> tuple[Tensor, Tensor]:
        """Rise and fall of ``error`` when each candidate becomes low, (candidates,) each.

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
        return (s * qs).sum((1, 2)), (r * torch.linalg.solve(m, r)).sum((1, 2))

    def lower(self, chosen: Tensor) -> None:
        """Make the candidates ``chosen`` (a mask) low; they are candidates no longer."""
        gone, new = self.high[chosen].flatten(), self.low[chosen].flatten()
        if not len(gone):
            return
        self.matrix = exchanged(self.matrix, gone, new)
        before = torch.bincount(gone, minlength=len(self.matrix) + len(gone)).cumsum(0)
        self.high, self.low = (index - before[index] for index in (self.high[~chosen], self.low[~chosen]))
