"""How far a fit may move when there are few rows: decided on rows that it does not see.

With hardly more rows than unknowns least squares learns the rows by heart, and gives nonsense for
other images. A late layer has few positions in an image, a squeeze-and-excitation layer one. There
the ridge is chosen by the error on a quarter of the rows, those of other images, after a fit to
the rest; where no ridge is better than the weights as they are, they stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octify.calibrate.solve import RIDGE, solve

ENOUGH = 3.0  # rows for each unknown: the ridge is then left alone
_RIDGES = (RIDGE, 10 * RIDGE, 100 * RIDGE, 1000 * RIDGE)


def cautious_ridge(x: Tensor, target: Tensor, skip: Tensor | None, initial: Tensor) -> float | None:
    """The ridge for ``solve`` with these arguments; None to keep ``initial``.

    Rows are those of one image after another's, at each call of the convolution.
    """
    rows, unknowns = x.shape[1], x.shape[2] - 1
    if rows >= ENOUGH * unknowns:
        return RIDGE
    seen = _seen(rows, x.device)
    if seen.all():
        return None
    fixed = None if skip is None else skip[:, seen]
    rest = target[:, ~seen] - (0.0 if skip is None else skip[:, ~seen])

    def error(weights: Tensor) -> float:
        return float((x[:, ~seen] @ weights - rest).square().mean())

    best, least = None, error(initial)
    for ridge in _RIDGES:
        fitted = solve(x[:, seen], target[:, seen], fixed, initial, None, 0, ridge).weights
        if (found := error(fitted)) < least:
            best, least = ridge, found
    return best


def _seen(rows: int, device: torch.device) -> Tensor:
    """All rows but every fourth stretch of a sixteenth of them."""
    stretch = max(1, rows // 16)
    return torch.arange(rows, device=device) // stretch % 4 != 3
