"""How far a fit may move when there are few rows: decided on rows that it does not see.

With hardly more rows than unknowns least squares learns the rows by heart, and gives nonsense for
other images. A late layer has few positions in an image, a squeeze-and-excitation layer one. There
the ridge is chosen by the error on a quarter of the rows, those of other images, after a fit to
the rest; where no ridge is better than the weights as they are, they stay.

With few images there may be rows in plenty, but neighbouring positions are alike and all are of the same
scenes: there the closed-form weights count as much as one image's rows do (``least_ridge``).

With fewer rows than unknowns the fit is made in its dual form, whose matrix has the rows' number:

    (X'X + R)^-1 X' E = R^-1 X' (X R^-1 X' + 1)^-1 E
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from octify.calibrate.fit.solve import LEAST, RIDGE

ENOUGH = 3.0  # rows for each unknown: the ridge is then left alone
_TIMES = (1, 10, 100, 1000)  # the least ridge


def least_ridge(images: int) -> float:
    """The ridge, of the mean diagonal of a Gram matrix over ``images``: of a hundred and more, `RIDGE`."""
    return max(RIDGE, 1 / images)


def cautious_ridge(
    x: Tensor, target: Tensor, skip: Tensor | None, initial: Tensor, images: int
) -> float | None:
    """The ridge for ``solve`` with these arguments; None to keep ``initial``.

    Rows are those of one image after another's, at each call of the convolution; ``images`` is how many
    images they are of, not counting altered copies.
    """
    rows, unknowns = x.shape[1], x.shape[2] - 1
    if rows >= ENOUGH * unknowns:
        return least_ridge(images)
    seen = _seen(rows, x.device)
    if bool(seen.all()):
        return None
    lacking = target - x @ initial - (0.0 if skip is None else skip)
    correction = (_dual if int(seen.sum()) < unknowns else _primal)(x[:, seen], x[:, ~seen], lacking[:, seen])
    unseen = lacking[:, ~seen]
    best, least = None, float(unseen.square().mean())
    for ridge in (least_ridge(images) * times for times in _TIMES):
        found = float((unseen - correction(ridge)).square().mean())
        if found < least:
            best, least = ridge, found
    return best


def _seen(rows: int, device: torch.device) -> Tensor:
    """All rows but every fourth stretch of a sixteenth of them."""
    stretch = max(1, rows // 16)
    return torch.arange(rows, device=device) // stretch % 4 != 3


Correction = Callable[[float], Tensor]
"""From a ridge to what the fit adds to the prediction on other rows, (groups, rows, O)."""


def _penalties(diagonal: Tensor, ridge: float, rows: int) -> Tensor:
    """As in ``solve``: the ridge of every weight, and that of the bias, (groups, 2)."""
    mean = (ridge * diagonal).clamp_min(LEAST * rows)
    return torch.stack([mean, torch.full_like(mean, LEAST * rows)], 1)


def _primal(x: Tensor, other: Tensor, lacking: Tensor) -> Correction:
    gram = (x.transpose(1, 2) @ x).double()
    right = (x.transpose(1, 2) @ lacking).double()
    unknowns = x.shape[2] - 1
    mean = gram.diagonal(dim1=1, dim2=2)[:, :unknowns].mean(1)

    def correction(ridge: float) -> Tensor:
        weight, bias = torch.split(_penalties(mean, ridge, x.shape[1]), 1, 1)
        penalty = torch.cat([weight.expand(-1, unknowns), bias], 1)
        factor = torch.linalg.cholesky(gram + torch.diag_embed(penalty))
        return other @ torch.cholesky_solve(right, factor).to(other)

    return correction


def _dual(x: Tensor, other: Tensor, lacking: Tensor) -> Correction:
    features, rows = x[:, :, :-1], x.shape[1]
    own = (features @ features.transpose(1, 2)).double()
    across = (other[:, :, :-1] @ features.transpose(1, 2)).double()
    mean = own.diagonal(dim1=1, dim2=2).sum(1) / features.shape[2]

    def correction(ridge: float) -> Tensor:
        weight, bias = (1 / p[:, :, None] for p in torch.split(_penalties(mean, ridge, rows), 1, 1))
        kernel = own * weight + bias + torch.eye(rows, dtype=own.dtype, device=own.device)
        solved = torch.cholesky_solve(lacking.double(), torch.linalg.cholesky(kernel))
        added: Tensor = (across * weight + bias) @ solved
        return added.to(other)

    return correction
