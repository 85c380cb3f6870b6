"""Channels selected by a convolution, which runtimes keep in their own layout.

Where a dense value becomes octave with no convolution at hand (``SplitOctave``), channels are copied by
Split or Gather; for both, runtimes leave the blocked layout of their convolutions and come back to it. A
1x1 convolution whose weights are 0 and 1 computes the same, and takes up an addition behind it.

It multiplies where a copy does not: of wide values the copy is the cheaper one (``WIDEST``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.nn import SplitOctave
from octify.nn.functional import pool

WIDEST = 256  # channels: a convolution of more takes longer than three passes over the value


class SelectingSplit(nn.Module):
    """``SplitOctave`` by convolutions: dense (N, C, H, W) -> high (N, C - L, H, W), low at half of H and W.

    A value that is no image is split as ``split`` does.
    """

    def __init__(self, split: SplitOctave) -> None:
        super().__init__()
        self.split = split
        self.register_buffer("high", _selection(split.high_channels, split.channels), persistent=False)
        self.register_buffer("low", _selection(split.low_channels, split.channels), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if x.ndim != 4 or not x.is_floating_point():
            split: tuple[Tensor | None, Tensor | None] = self.split(x)
            return split
        high = F.conv2d(x, self.get_buffer("high").to(x.dtype)) if self.split.high_channels else None
        low = F.conv2d(pool(x), self.get_buffer("low").to(x.dtype)) if self.split.low_channels else None
        return high, low


def split_by_convolution(module: nn.Module) -> nn.Module:
    """``module`` with its ``SplitOctave`` layers of up to ``WIDEST`` channels replaced, in place."""
    for path, layer in list(module.named_modules()):
        if path and isinstance(layer, SplitOctave) and layer.channels <= WIDEST:
            module.set_submodule(path, SelectingSplit(layer))
    return module


def _selection(chosen: Sequence[int], channels: int) -> Tensor:
    """The kernel (chosen, channels, 1, 1) that selects channels."""
    weight = torch.zeros(len(chosen), channels, 1, 1)
    weight[torch.arange(len(chosen)), torch.tensor(chosen, dtype=torch.long)] = 1
    return weight
