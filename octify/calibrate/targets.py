"""What a convolution is fitted to: the original's values behind BatchNorm and residual additions.

    high   z
    low    the y with act(y) = P act(z) where there is one, else P z
           (before a max pool: such that the pool over the low branch gives P of the original's pool)

Pooling before the activation would give too low a mean (Jensen), and that shift, accumulated, is
the main reason naive conversion fails. What the converted model adds behind the convolution (a
skip connection with its own error) is subtracted, so the branch repairs it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.calibrate.affine import scale_and_shift
from octify.calibrate.execution import Stream
from octify.calibrate.rows import Positions
from octify.calibrate.sites import Site
from octify.nn.functional import low_size, pool


def original_sum(site: Site, teacher: Stream, chunk: int, channels: Sequence[int]) -> Tensor:
    """The original's ``channels`` behind BatchNorm and residual additions, (N, len(channels), *size)."""
    y = site.as_map(teacher.values(site.node)[chunk])
    index = torch.tensor(channels, device=y.device)
    scale, shift = scale_and_shift(site.norm, y.shape[1], y)
    shape = (-1, *(1,) * (y.ndim - 2))
    z: Tensor = y.index_select(1, index) * scale[index].reshape(shape) + shift[index].reshape(shape)
    for skip in site.skips:
        z = z + site.as_map(teacher.values(skip.original)[chunk]).index_select(1, index)
    return z


def target(z: Tensor, branch: str, site: Site, where: Positions) -> Tensor:
    """What a branch is fitted to at sampled positions of its own resolution, (R, C), from `original_sum`."""
    if branch == "high":
        return where.pick(z)
    plain = where.pick(pool(z))
    if site.activation is None:
        return plain
    made = site.activation.apply(z)
    low = pool(made)
    if site.max_pool is not None and site.conv.kernels == "paper":
        low = low + max_pool_gap(site.max_pool, made)
    inverse, valid = site.activation.inverse(where.pick(low))
    return torch.where(valid, inverse, plain)


def max_pool_gap(max_pool: nn.Module, made: Tensor) -> Tensor | float:
    """What the low branch lacks for a max pool over it to give ``P max_pool(made)``, at its resolution.

    The maximum of block means is not the mean of maxima (of textures it is less). Every sample of a
    window is raised by the same amount, so the maximum stays where it was.
    """
    gap: Tensor = pool(max_pool(made)) - max_pool(pool(made))
    size = low_size(made.shape[2:])
    if any(n % m for n, m in zip(size, gap.shape[2:], strict=True)):  # windows that overlap an odd end
        return 0.0
    return F.interpolate(gap, size=size, mode="nearest")


def converted_skips(site: Site, branch: str, student: Stream, chunk: int, where: Positions) -> Tensor | None:
    """What the converted model adds behind the convolution at those positions, (R, C); None if nothing."""
    total: Tensor | None = None
    for skip in site.skips:
        node = skip.value.high if branch == "high" else skip.value.low
        if node is not None:
            picked = where.pick(student.values(node)[chunk])
            total = picked if total is None else total + picked
    return total
