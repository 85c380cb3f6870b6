"""Per-channel layers over an octave value: one copy for each branch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octify.nn.channels import last_channels, split_indices
from octify.nn.functional import Pair, dense_size, pool, upsample


def select_channels(module: nn.Module, channels: int, indices: Sequence[int]) -> nn.Module:
    """A copy of a per-channel ``module`` for the channels ``indices`` of its ``channels``.

    Every parameter and buffer of shape (channels,) is indexed; so are the attributes that
    hold the count (``num_features``, ``num_parameters``).
    """
    part = copy.deepcopy(module)
    index = torch.tensor(list(indices))
    for owner in part.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if parameter.shape == (channels,):
                picked = parameter.detach().index_select(0, index.to(parameter.device)).clone()
                setattr(owner, name, nn.Parameter(picked, requires_grad=parameter.requires_grad))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.shape == (channels,):
                setattr(owner, name, buffer.index_select(0, index.to(buffer.device)).clone())
        for count in ("num_features", "num_parameters"):
            if getattr(owner, count, None) == channels:
                setattr(owner, count, len(indices))
    return part


class OctaveChannelwise(nn.Module):
    """Applies ``high`` to the high branch and ``low`` to the low one; either may be absent."""

    def __init__(self, high: nn.Module | None, low: nn.Module | None) -> None:
        super().__init__()
        self.high = high
        self.low = low

    @classmethod
    def from_module(cls, module: nn.Module, channels: int, low: Sequence[int]) -> OctaveChannelwise:
        """Split a per-channel ``module`` of ``channels`` channels at the low channels ``low``."""
        layer = cls.__new__(cls)
        high_channels, low_channels = split_indices(channels, low)
        OctaveChannelwise.__init__(
            layer,
            select_channels(module, channels, high_channels) if high_channels else None,
            select_channels(module, channels, low_channels) if low_channels else None,
        )
        layer.train(module.training)
        return layer

    def forward(self, high: Tensor | None, low: Tensor | None) -> Pair:
        y_high = None if self.high is None or high is None else self.high(high)
        y_low = None if self.low is None or low is None else self.low(low)
        return y_high, y_low


class OctavePositionNorm(OctaveChannelwise):
    """A norm with statistics of each channel over all positions: InstanceNorm, filter response norm.

    Each branch by the module itself, for a low sample stands for equally many positions wherever it
    is: exact. Not so at an odd end; there the low branch is upsampled, normalised and pooled again.
    So it is where one sample is left, of which InstanceNorm takes no statistics.
    """

    def forward(self, high: Tensor | None, low: Tensor | None) -> Pair:
        y_high, _ = super().forward(high, None)
        if low is None or self.low is None:
            return y_high, None
        size = dense_size(high, low)
        even = all(n in (have, 2 * have) for n, have in zip(size, low.shape[2:], strict=True))
        if even and math.prod(low.shape[2:]) > 1:
            return y_high, self.low(low)
        return y_high, pool(self.low(upsample(low, size)))


class OctaveBatchNorm2d(OctaveChannelwise):
    """BatchNorm over an octave value: ``high`` and ``low`` are ordinary BatchNorm modules.

    High (N, C - L, H, W) and low (N, L, ceil(H/2), ceil(W/2)) keep their shapes. Made by hand
    it has ``int(alpha * num_features)`` low channels.

    PyTorch takes no statistics of a single value. One that is left of a larger map is given twice, which
    has the same mean and, as the map it stands for, no variance.
    """

    def forward(self, high: Tensor | None, low: Tensor | None) -> Pair:
        if low is None or self.low is None or low.shape[0] * math.prod(low.shape[2:]) > 1:
            return super().forward(high, low)
        if not (self.low.training or getattr(self.low, "running_mean", None) is None):
            return super().forward(high, low)
        if high is not None and math.prod(high.shape[2:]) == 1:  # nor is there more of the original's
            return super().forward(high, low)
        y_high, _ = super().forward(high, None)
        return y_high, self.low(torch.cat([low, low]))[:1]

    def __init__(self, num_features: int, *, alpha: float = 0.5) -> None:
        low = len(last_channels(num_features, alpha))
        high = num_features - low
        super().__init__(nn.BatchNorm2d(high) if high else None, nn.BatchNorm2d(low) if low else None)
