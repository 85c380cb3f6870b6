"""Ridge of a fit, chosen on images that it does not see.

Least squares learns its rows by heart, and gives nonsense for other images. Rows in plenty do not help:
neighbouring positions are alike, and so are neighbouring images (crops of one photograph, frames of one
film). So the ridge is chosen by the error on blocks of neighbouring images, a quarter of them all, after a
fit to the rest; where no ridge is better than the weights as they are, they stay.

The usual ridge makes the closed-form weights count as much as one image's rows do (``least_ridge``). Plain
3x3 convolutions take a hundredth of it; less is only tried where there are many images.

With fewer rows than unknowns the fit is made in its dual form, whose matrix has the rows' number:

    (X'X + R)^-1 X' E = R^-1 X' (X R^-1 X' + 1)^-1 E
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from octify.calibrate.fit.gram import gram as gram_of
from octify.calibrate.fit.solve import LEAST, RIDGE

_TIMES = (1, 3, 10, 30, 100, 300, 1000)  # the usual ridge
_LESS = (0.01, 0.1)  # times it where images are many enough to tell that it is too much
_MANY = 32
_BLOCKS = 16  # of neighbouring images, every fourth of which is not seen


def least_ridge(images: int) -> float:
    """The least ridge, of the mean diagonal of a Gram matrix: of a hundred images and more, `RIDGE`."""
    return max(RIDGE, 1 / images)


def cautious_ridge(
    x: Tensor,
    target: Tensor,
    skip: Tensor | None,
    initial: Tensor,
    source: Tensor,
    lacking: Tensor | None = None,
) -> tuple[float | None, Tensor | None]:
    """The ridge for ``solve`` with these arguments, None to keep ``initial``; and ``x' x``, if it came about.

    ``source`` is the number of the image that each row is of, (R,); of an altered copy, that of the image
    which it is a copy of. ``lacking`` is ``target - x @ initial - skip``, if it is there already.
    """
    unknowns, images = x.shape[2] - 1, int(source.max()) + 1
    seen = _seen(source, images)
    if bool(seen.all()):
        return None, None
    if lacking is None:
        lacking = target - x @ initial - (0.0 if skip is None else skip)
    if int(seen.sum()) < unknowns:
        error, gram = _dual(x[:, seen], x[:, ~seen], lacking[:, seen], lacking[:, ~seen]), None
    else:
        error, gram = _primal(x, lacking, seen)
    best, least = None, float(lacking[:, ~seen].double().square().sum())
    factors = (*_LESS, *_TIMES) if images >= _MANY else _TIMES
    for ridge in (least_ridge(images) * times for times in factors):
        if (held_out_error := error(ridge)) < least:
            best, least = ridge, held_out_error
    return best, gram


def _seen(source: Tensor, images: int) -> Tensor:
    """The rows of all blocks of images but every fourth; with very few images, stretches of rows instead."""
    if images < 4:
        rows = len(source)
        return torch.arange(rows, device=source.device) // max(1, rows // _BLOCKS) % 4 != 3
    return source * min(_BLOCKS, images) // images % 4 != 3


Error = Callable[[float], float]
"""From a ridge to the squared error that a fit with it has on other rows, less what none changes."""


def _penalties(diagonal: Tensor, ridge: float, rows: int) -> Tensor:
    """Ridge of every weight and of the bias, as in ``solve``, (groups, 2)."""
    mean = (ridge * diagonal).clamp_min(LEAST * rows)
    return torch.stack([mean, torch.full_like(mean, LEAST * rows)], 1)


def _primal(x: Tensor, lacking: Tensor, seen: Tensor) -> tuple[Error, Tensor]:
    gram, right = _moments(x, lacking, seen)
    other, other_right = _moments(x, lacking, ~seen)
    whole = float(lacking[:, ~seen].double().square().sum())
    rows, unknowns = int(seen.sum()), x.shape[2] - 1
    mean = gram.diagonal(dim1=1, dim2=2)[:, :unknowns].mean(1)

    def error(ridge: float) -> float:
        weight, bias = torch.split(_penalties(mean, ridge, rows), 1, 1)
        penalty = torch.cat([weight.expand(-1, unknowns), bias], 1)
        factor = torch.linalg.cholesky(gram + torch.diag_embed(penalty))
        added = torch.cholesky_solve(right, factor)
        return whole + float(((other @ added - 2 * other_right) * added).sum())

    return error, gram + other


def _moments(x: Tensor, y: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """``x' x`` and ``x' y`` over the chosen rows, which lie in a few stretches: none is copied."""
    gram = x.new_zeros(x.shape[0], x.shape[2], x.shape[2], dtype=torch.double)
    cross = x.new_zeros(x.shape[0], x.shape[2], y.shape[2], dtype=torch.double)
    runs, lengths = torch.unique_consecutive(chosen, return_counts=True)
    sizes = lengths.tolist()
    for is_chosen, part, its in zip(
        runs.tolist(), torch.split(x, sizes, 1), torch.split(y, sizes, 1), strict=True
    ):
        if is_chosen:
            gram += gram_of(part)
            cross += part.mT @ its
    return gram, cross


def _dual(x: Tensor, other: Tensor, lacking: Tensor, unseen: Tensor) -> Error:
    features, rows = x[:, :, :-1], x.shape[1]
    own = (features @ features.mT).double()
    across = (other[:, :, :-1] @ features.mT).double()
    mean = own.diagonal(dim1=1, dim2=2).sum(1) / features.shape[2]

    def error(ridge: float) -> float:
        weight, bias = (1 / p[:, :, None] for p in torch.split(_penalties(mean, ridge, rows), 1, 1))
        kernel = own * weight + bias + torch.eye(rows, dtype=own.dtype, device=own.device)
        solved = torch.cholesky_solve(lacking.double(), torch.linalg.cholesky(kernel))
        return float((unseen.double() - (across * weight + bias) @ solved).square().sum())

    return error
