"""Global context attention over an octave value (Cao et al. 2019, GCNet, as timm writes it).

A 1x1 convolution to one channel scores every position; the softmax ``a`` of the scores weighs the
positions of every channel. On low channels that is exact without upsampling, with the sums of ``a``
over the 2x2 blocks::

    sum_p (U u)[p] a[p] = sum_q u[q] (a summed over block q)

The context, one sample per channel, then scales (and shifts) the channels of each branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.nn.channels import Gather, split_indices
from octify.nn.functional import dense_size, upsample
from octify.nn.reduction import low_reduced


def block_sums(x: Tensor) -> Tensor:
    """Sums over 2x2 blocks: (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2)); an axis of one sample stays."""
    height, width = x.shape[2:]
    window = [min(2, height), min(2, width)]
    ends = [width % window[1], height % window[0]]
    whole = F.pad(x, [0, ends[0], 0, ends[1]]) if any(ends) else x
    return F.avg_pool2d(whole, window) * (window[0] * window[1])


class OctaveGlobalContext(nn.Module):
    """Global context of high (N, C - L, H, W) and low (N, L, ceil(H/2), ceil(W/2)); shapes are kept.

    Parameters
    ----------
    context:
        timm's ``GlobalContext``; its scoring convolution is parted by input channel, the rest is kept.
    channels, low:
        C, and the L low-frequency channels.
    """

    def __init__(self, context: nn.Module, channels: int, low: Sequence[int]) -> None:
        super().__init__()
        original: Any = context
        high_channels, low_channels = split_indices(channels, low)
        self.score_high, self.score_low = _parted(original.conv_attn, high_channels, low_channels)
        self.mlp_scale, self.mlp_add, self.gate = original.mlp_scale, original.mlp_add, original.gate
        self.pick_high = Gather(high_channels, channels)
        self.pick_low = Gather(low_channels, channels)
        place = {channel: i for i, channel in enumerate(high_channels + low_channels)}
        self.order = Gather([place[channel] for channel in range(channels)])
        self.train(context.training)

    def forward(self, high: Tensor | None, low: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        context = self.order(self._context(high, low))
        scale = None if self.mlp_scale is None else self.gate(self.mlp_scale(context))
        shift = None if self.mlp_add is None else self.mlp_add(context)
        return self._applied(high, self.pick_high, scale, shift), self._applied(
            low, self.pick_low, scale, shift
        )

    def _context(self, high: Tensor | None, low: Tensor | None) -> Tensor:
        """The high, then the low channels' weighted means: (N, C, 1, 1)."""
        if self.score_high is None and self.score_low is None:
            means = [None if high is None else high.mean((2, 3), keepdim=True)]
            means.append(None if low is None else low_reduced(low, high, "mean", (2, 3)))
            return torch.cat([m for m in means if m is not None], 1)
        size = dense_size(high, low)
        scores = [] if high is None or self.score_high is None else [self.score_high(high)]
        if low is not None and self.score_low is not None:
            scores.append(upsample(self.score_low(low), size))
        total = scores[0] if len(scores) == 1 else scores[0] + scores[1]
        weights = total.flatten(2).softmax(-1).view_as(total)
        parts = [] if high is None else [(high * weights).sum((2, 3), keepdim=True)]
        if low is not None:
            parts.append((low * block_sums(weights)).sum((2, 3), keepdim=True))
        return torch.cat(parts, 1)

    def _applied(
        self, x: Tensor | None, pick: Gather, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor | None:
        if x is None:
            return None
        x = x if scale is None else x * pick(scale)
        return x if shift is None else x + pick(shift)


def _parted(
    conv: nn.Conv2d | None, high: Sequence[int], low: Sequence[int]
) -> tuple[nn.Conv2d | None, nn.Conv2d | None]:
    """The parts of a 1x1 convolution that read the high and the low channels; one has the bias."""
    if conv is None:
        return None, None
    parts: list[nn.Conv2d | None] = []
    bias = conv.bias
    for channels in (high, low):
        if not channels:
            parts.append(None)
            continue
        part = nn.Conv2d(len(channels), conv.out_channels, 1, bias=bias is not None)
        part = part.to(conv.weight)
        with torch.no_grad():
            part.weight.copy_(conv.weight[:, list(channels)])
            if bias is not None and part.bias is not None:
                part.bias.copy_(bias)
        part.weight.requires_grad_(conv.weight.requires_grad)
        bias = None
        parts.append(part)
    return parts[0], parts[1]
