"""Pixel shuffle and its inverse on the low branch.

Shuffled by ``r = 2 h``, a channel is made of ``r x r`` sub-channels, and its 2x2 blocks are made of
``2 x 2`` neighbours among those. With ``M`` their means, at the low resolution,

    P shuffle_r U x = shuffle_h U M x

which for r = 2 is ``U`` of the mean of four sub-channels. The inverse takes the sub-channels of a map
that is constant on blocks from ``unshuffle_h`` of the low branch, each four times. An odd r does
not go by blocks: it is done at full resolution, with no arithmetic but the pooling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from octify.nn.functional import dense_size, pool, upsample
from octify.nn.tellable import require_tellable


def low_pixel_shuffle(low: Tensor, high: Tensor | None, factor: int) -> Tensor:
    """(N, L factor^2, *low_size) -> the low branch of the shuffled map, (N, L, factor * low_size)."""
    size = dense_size(high, low)
    if factor % 2:
        return pool(F.pixel_shuffle(upsample(low, size), factor))
    half = factor // 2
    means = pool(F.pixel_shuffle(low, factor))
    if half == 1:
        return upsample(means, size)
    return F.pixel_shuffle(upsample(F.pixel_unshuffle(means, half), size), half)


def low_pixel_unshuffle(low: Tensor, high: Tensor | None, factor: int) -> Tensor:
    """(N, L, *low_size) -> the low branch of the map taken apart, (N, L factor^2, *low_size / factor)."""
    require_tellable(high, [n // factor for n in dense_size(high, low)])
    if factor % 2:
        return pool(F.pixel_unshuffle(upsample(low, dense_size(high, low)), factor))
    half = factor // 2
    parts = pool(F.pixel_unshuffle(low, half) if half > 1 else low)
    row = torch.arange(factor, device=low.device) // 2
    order = (row[:, None] * half + row).flatten()
    whole = torch.unflatten(parts, 1, (-1, half * half)) if half > 1 else parts.unsqueeze(2)
    return whole.index_select(2, order).flatten(1, 2)
