"""Gram matrices ``X' X``, at half the arithmetic of a plain product.

A Gram matrix is symmetric, so panels of its rows are computed from the diagonal on and mirrored
once at the end. Sums over chunks of rows go straight into the result.
"""

from __future__ import annotations

from torch import Tensor

_PANEL = 512  # wide enough for a matrix product to run at full speed


def add_gram(total: Tensor, x: Tensor) -> None:
    """Add ``x' x`` of rows ``x`` (R, D) to the diagonal and what is above it of ``total`` (D, D), in place.

    What is below the diagonal is without meaning until ``mirror``.
    """
    for start in range(0, x.shape[1], _PANEL):
        stop = start + _PANEL
        total[start:stop, start:].addmm_(x[:, start:stop].T, x[:, start:])


def mirror(total: Tensor) -> Tensor:
    """Copy what is above the diagonal of ``total`` (D, D) below it, in place; returns ``total``."""
    for start in range(0, len(total), _PANEL):
        stop = start + _PANEL
        block = total[start:stop, start:stop]
        block.copy_(block.triu() + block.triu(1).T)
        total[stop:, start:stop] = total[start:stop, stop:].T
    return total


def gram(x: Tensor) -> Tensor:
    """``x' x`` for each group: (groups, R, D) -> (groups, D, D)."""
    if x.shape[2] <= 2 * _PANEL:
        return x.transpose(1, 2) @ x
    total = x.new_zeros(x.shape[0], x.shape[2], x.shape[2])
    for each, rows in zip(total, x, strict=True):
        add_gram(each, rows)
        mirror(each)
    return total
