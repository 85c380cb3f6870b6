"""The layers between dense and octave values where no convolution can take that part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octify.nn.channels import Gather, last_channels, split_indices
from octify.nn.functional import pool, upsample
from octify.nn.tellable import require_tellable


class SplitOctave(nn.Module):
    """Dense (N, C, *size) -> high (N, C - L, *size) and low (N, L, *low_size(size)).

    Parameters
    ----------
    channels:
        C.
    low:
        The L low-frequency channels; or give ``alpha`` for the last ``int(alpha * C)``.
    """

    def __init__(self, channels: int, low: Sequence[int] | None = None, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.channels = channels
        self.high_channels, self.low_channels = split_indices(
            channels, last_channels(channels, alpha) if low is None else low
        )
        self.pick_high = Gather(self.high_channels, channels) if self.high_channels else None
        self.pick_low = Gather(self.low_channels, channels) if self.low_channels else None

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        high = None if self.pick_high is None else self.pick_high(x)
        require_tellable(high, x.shape[2:])
        low = None if self.pick_low is None else pool(self.pick_low(x))
        return high, low

    def extra_repr(self) -> str:
        return f"{self.channels}, high={len(self.high_channels)}, low={len(self.low_channels)}"


class MergeOctave(nn.Module):
    """High (N, C - L, *size) and low (N, L, *low_size(size)) -> dense (N, C, *size), channels in order.

    With every channel low the size is twice the low one (1 stays 1).
    """

    def __init__(self, channels: int, low: Sequence[int] | None = None, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.channels = channels
        self.high_channels, self.low_channels = split_indices(
            channels, last_channels(channels, alpha) if low is None else low
        )
        stored = self.high_channels + self.low_channels
        place = {channel: position for position, channel in enumerate(stored)}
        self.order = Gather([place[channel] for channel in range(channels)])

    def forward(self, high: Tensor | None, low: Tensor | None) -> Tensor:
        if low is None:
            assert high is not None, "an octave value has at least one branch"
            return high
        if high is None:
            octave = low.shape[3:] if low.ndim == 5 else low.shape[2:]
            fixed = low.shape[2:3] if low.ndim == 5 else ()
            return upsample(low, [*fixed, *(n if n == 1 else 2 * n for n in octave)])
        out: Tensor = self.order(torch.cat([high, upsample(low, high.shape[2:])], dim=1))
        return out

    def extra_repr(self) -> str:
        return f"{self.channels}, high={len(self.high_channels)}, low={len(self.low_channels)}"
