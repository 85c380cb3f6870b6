"""A convolution's weights with all that is affine behind it folded in: read, and written back.

*Folded* weights give the value in front of the activation. Written back, the part of what follows
that cannot be changed is taken out again, and a BatchNorm gets the statistics of its new input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from octify.calibrate.fit.affine import Affine, scale_and_shift, unscaling, write_norm
from octify.calibrate.fit.linear_form import Block
from octify.calibrate.fit.sites import Site
from octify.calibrate.fit.solve import Fit


@dataclass(frozen=True)
class Unfolded:
    """Parameters for a block's convolutions and norm.

    weights:
        (groups, unknowns, outputs); without a norm ``bias`` (groups * outputs,) is the convolution's.
    mean, variance:
        Statistics of the convolution's output without its bias, (groups * outputs,).
    """

    block: Block
    weights: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor


def initial(site: Site, branch: str, block: Block) -> Tensor:
    """The present weights, folded, and the bias as the last row: (groups, unknowns + 1, outputs)."""
    normed = _normed(site, branch, block)
    fixed = _fixed(site, branch, block, normed)
    if fixed is None:
        return normed
    weights, bias = normed[:, :-1] * _grouped(fixed.scale, block), normed[:, -1:]
    return torch.cat([weights, bias * _grouped(fixed.scale, block) + _grouped(fixed.shift, block)], 1)


def _normed(site: Site, branch: str, block: Block) -> Tensor:
    """Like ``initial``, with nothing but the BatchNorm folded in."""
    weights = block.rows()
    scale, shift = _norm_affine(site, branch, block, weights)
    bias = sum((_bias_of(part.conv, part.first, block, weights) for part in block.slices), start=0 * shift)
    return torch.cat([weights * _grouped(scale, block), _grouped(bias * scale + shift, block)], dim=1)


def _norm_affine(site: Site, branch: str, block: Block, like: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = scale_and_shift(site.branch_norm(branch), len(site.channels(branch)), like)
    return scale[block.channels], shift[block.channels]


def _fixed(site: Site, branch: str, block: Block, like: Tensor) -> Affine | None:
    if site.fixed is None:
        return None
    chosen = site.fixed.channels(site.channels(branch)[block.channels])
    return Affine(chosen.scale.to(like), chosen.shift.to(like))


def _grouped(values: Tensor, block: Block) -> Tensor:
    """One number for each of a block's outputs as (groups, 1, outputs)."""
    return values.reshape(block.groups, 1, block.outputs)


def _bias_of(conv: nn.Module, first: int, block: Block, like: Tensor) -> Tensor:
    """The bias of a block's outputs in one of its convolutions, (groups * outputs,)."""
    bias = conv.bias
    if not isinstance(bias, Tensor):
        return like.new_zeros(block.groups * block.outputs)
    return bias.detach()[block.places(first)]


def unfolding(site: Site, branch: str, block: Block, like: Tensor) -> Tensor:
    """Factors of folded weights before they go into the convolution: (groups, 1, outputs).

    0 for channels that what follows blots out.
    """
    norm = site.branch_norm(branch)
    factor = unscaling(norm, len(site.channels(branch)), like)[block.channels]
    fixed = _fixed(site, branch, block, like)
    if fixed is not None:
        factor = torch.where(fixed.invertible, factor / fixed.scale, torch.zeros_like(factor))
    return _grouped(factor, block)


def unfolded(site: Site, branch: str, block: Block, fit: Fit, x: Tensor) -> Unfolded:
    """The folded weights of a fit (groups, unknowns + 1, outputs) as what they are written as.

    ``x`` (groups, R, unknowns + 1) is what the block reads, with a constant column. Channels that a
    fixed factor blots out keep their weights.
    """
    weights = fit.weights
    normed = _without_fixed(site, branch, block, weights)
    factor = unscaling(site.branch_norm(branch), len(site.channels(branch)), weights)[block.channels]
    plain = normed[:, :-1] * _grouped(factor, block)
    if site.fixed is None and fit.predicted is not None:
        variance, mean = torch.var_mean(fit.predicted, 1, correction=0)
        scaling = factor.reshape(mean.shape)
        variance, mean = variance * scaling.square(), (mean - weights[:, -1]) * scaling
    else:
        variance, mean = torch.var_mean(x[:, :, :-1] @ plain, 1, correction=0)
    return Unfolded(block, plain, normed[:, -1].flatten(), mean.flatten(), variance.flatten())


@torch.no_grad()
def write_branch(site: Site, branch: str, parts: Sequence[Unfolded]) -> None:
    """Put all blocks of a branch into the convolution's paths and its BatchNorm."""
    norm, count = site.branch_norm(branch), len(site.channels(branch))
    like = parts[0].weights
    bias, mean, variance = (like.new_zeros(count) for _ in range(3))
    for part in parts:
        for own, rows in part.block.parted(part.weights):
            own.write(rows)
        _write_bias(part.block, part.bias if norm is None else 0 * part.bias)
        chosen = part.block.channels
        bias[chosen], mean[chosen], variance[chosen] = part.bias, part.mean, part.variance
    if norm is not None:
        write_norm(norm, unscaling(norm, count, like), mean, variance, bias)


def _without_fixed(site: Site, branch: str, block: Block, weights: Tensor) -> Tensor:
    """Folded weights in front of what is fixed."""
    fixed = _fixed(site, branch, block, weights)
    if fixed is None:
        return weights
    keep = _grouped(fixed.invertible, block)
    scale = torch.where(keep, _grouped(fixed.scale, block), 1.0)
    bias = (weights[:, -1:] - _grouped(fixed.shift, block)) / scale
    return torch.where(keep, torch.cat([weights[:, :-1] / scale, bias], 1), _normed(site, branch, block))


def _write_bias(block: Block, bias: Tensor) -> None:
    """Give the block's outputs this bias: in one convolution that has biases, 0 in the others."""
    holders = [part for part in block.slices if isinstance(part.conv.bias, Tensor)]
    for part in holders[1:]:
        part.conv.get_parameter("bias")[block.places(part.first)] = 0
    if not holders and not bool(bias.any()):
        return
    part = (holders or list(block.slices))[0]
    if not holders:
        weight = part.conv.get_parameter("weight")
        channels = int(part.conv.out_channels)  # type: ignore[arg-type]
        part.conv.bias = nn.Parameter(weight.new_zeros(channels), requires_grad=weight.requires_grad)
    part.conv.get_parameter("bias")[block.places(part.first)] = bias
