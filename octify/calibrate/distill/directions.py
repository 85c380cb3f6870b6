"""Parameters of distillation: the fitted branches, in coordinates in which steps change outputs alike.

Each fitted branch keeps the covariance of what it reads, ``G = U L U'``, and is written as
``W = W0 + U (L + l)^-1/2 V S``, l the mean of L and S the root mean squares of its outputs. A step of
Adam on V then changes every output by the same share of it. The whitening is soft (l): with a full one
the many directions that the data hardly shows take steps as large as the others, nothing but noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.calibrate.fit.linear_form import Block
from octify.calibrate.fit.sites import Site
from octify.calibrate.fit.solve import Fit
from octify.calibrate.fit.write import unfolding

SOFTNESS = 1.0  # l, of the mean eigenvalue; 1e-3 ends at a tenth more error, 10 alike

Fits = Mapping[tuple[str, str], Sequence[tuple[Block, Fit]]]


@dataclass(frozen=True)
class Directions:
    """A block's weights as a function of V (groups, D, O) and a bias offset (groups * O,).

    names:
        Weight names of the slices; ``bias`` names the parameter that holds the biases, and the block's
        place in it.
    """

    block: Block
    names: tuple[str, ...]
    factor: Tensor
    whitening: Tensor
    bias: tuple[str, slice] | None

    def start(self) -> tuple[Tensor, Tensor]:
        """V = 0 and no offset."""
        w, block = self.whitening, self.block
        return w.new_zeros(block.groups, w.shape[2], block.outputs), w.new_zeros(block.groups * block.outputs)

    def add_to(
        self, changed: dict[str, Tensor], own: Mapping[str, Tensor], v: Tensor, offset: Tensor
    ) -> None:
        """Add what V and the offset change to the parameters ``changed``, which are ``own`` otherwise."""
        rows = (self.whitening @ v) * self.factor
        for name, (part, its) in zip(self.names, self.block.parted(rows), strict=True):
            changed[name] = changed.get(name, own[name]) + part.inside(its)
        if self.bias is not None:
            name, place = self.bias
            value = changed.get(name, own[name])
            around = (place.start, len(value) - place.stop)
            changed[name] = value + F.pad(offset, around)


def directions(student: nn.Module, sites: Sequence[Site], fits: Fits) -> list[Directions]:
    """Directions of every block that was fitted."""
    names = {id(p): name for name, p in student.named_parameters()}
    return [
        _of_block(site, branch, block, fit, names)
        for site in sites
        for branch in ("high", "low")
        for block, fit in fits.get((site.path, branch), ())
    ]


def _of_block(site: Site, branch: str, block: Block, fit: Fit, names: Mapping[int, str]) -> Directions:
    norm = site.branch_norm(branch)
    holders = [(part.conv.bias, part.first) for part in block.slices if part.conv.bias is not None]
    bias: tuple[str, slice] | None = None
    if norm is not None and id(norm.bias) in names:
        bias = names[id(norm.bias)], block.channels
    elif norm is None and holders:
        held, first = holders[0]
        bias = names[id(held)], block.places(first)
    values, vectors = torch.linalg.eigh(fit.gram.double())
    softness = SOFTNESS * values.mean(1, keepdim=True).clamp_min(1e-20)
    whitening = vectors * (values.clamp_min(0) + softness).rsqrt()[:, None, :]
    factor = unfolding(site, branch, block, fit.weights) * _size_of_outputs(fit)
    weights = tuple(names[id(part.conv.get_parameter("weight"))] for part in block.slices)
    return Directions(block, weights, factor, whitening.to(fit.weights), bias)


def _size_of_outputs(fit: Fit) -> Tensor:
    """Root mean square of each output, less its bias: (groups, 1, O)."""
    weights = fit.weights[:, :-1]
    return ((fit.gram @ weights) * weights).sum(1, keepdim=True).clamp_min(0).sqrt()
