"""The basis whose last directions lose least when they are made low.

With M the weights that readers give to directions (``ReadMoments.weighing``) and S the second moments of the
high frequencies, making the last k channels of ``x' = R x`` low takes ``R^-1 E R h`` from what is read, E the
projection on them, which costs ``tr(M Q S Q')`` with ``Q = R^-1 E R``. In the coordinates ``M^1/2 x`` that is
``||Q T||^2`` with ``T T' = M^1/2 S M^1/2``, for which no projection of rank k, oblique or not, is better than
that on the k eigenvectors of the smallest eigenvalues: ``R = V' M^1/2`` with the eigenvectors V, those last.

Several readers have an M and an S each; M is their sum, S the mean weighted by what they have to lose.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octify.calibrate.rotate.moments import ReadMoments

_FLATTEST = (
    1e-2  # least eigenvalue of M over the largest: R's condition number is at most ten times a scaling
)


def low_basis(readers: Sequence[ReadMoments]) -> Tensor:
    """``R`` (C, C) float64, rows of length 1, the directions that lose least last."""
    weighing = torch.stack([r.weighing for r in readers]).sum(0)
    share = torch.stack([r.weighing.trace() for r in readers])
    high = torch.einsum("r,rcd->cd", share / share.sum(), torch.stack([r.high for r in readers]))
    values, vectors = torch.linalg.eigh(weighing)
    # A direction that nobody reads costs nothing, and a basis that knew it exactly would have no inverse.
    root = vectors * values.clamp_min(_FLATTEST * float(values[-1])).sqrt() @ vectors.T
    _, directions = torch.linalg.eigh(root @ high @ root)
    matrix = directions.flip(1).T @ root
    matrix = matrix / matrix.norm(dim=1, keepdim=True)
    largest = matrix.gather(1, matrix.abs().argmax(1, keepdim=True))
    signed: Tensor = matrix * largest.sign()  # an eigenvector's own sign is chance
    return signed


def lost(readers: Sequence[ReadMoments], matrix: Tensor, low: Sequence[int]) -> float:
    """Share of the readers' weighed high-frequency energy lost with the channels ``low`` of ``R x``."""
    chosen = list(low)
    projection = torch.linalg.inv(matrix)[:, chosen] @ matrix[chosen]
    taken = sum(float((r.weighing @ projection @ r.high * projection).sum()) for r in readers)
    whole = sum(float((r.weighing * r.high).sum()) for r in readers)
    return taken / whole if whole > 0 else 0.0


def best_unrotated(readers: Sequence[ReadMoments], count: int) -> list[int]:
    """The ``count`` old channels that cost least each by itself, as ``calibrate.channels`` ranks them."""
    cost = torch.stack([r.weighing.diagonal() * r.high.diagonal() for r in readers]).sum(0)
    return [int(c) for c in cost.argsort(stable=True)[:count]]


def best_rotated(readers: Sequence[ReadMoments], matrix: Tensor, count: int) -> list[int]:
    """Like ``best_unrotated``, for the channels of ``R x``."""
    inverse = torch.linalg.inv(matrix)
    turned = [ReadMoments(inverse.T @ r.weighing @ inverse, matrix @ r.high @ matrix.T) for r in readers]
    return best_unrotated(turned, count)
