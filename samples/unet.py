"""A U-Net (Ronneberger et al., arXiv 1505.04597) for 256x256 images, two classes per pixel.

Each decoder step doubles the resolution, concatenates the encoder's map of that size, and convolves. The
concatenation lines up the low channels of both; large maps with few channels are where memory is saved:

    octify inspect samples/unet.py --alpha 0.5
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

example_inputs = (torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)),)


def double_conv(c_in: int, c_out: int) -> nn.Sequential:
    """Two 3x3 convolutions that keep the size, each with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


class Up(nn.Module):
    """Doubles the size of ``x`` and joins it with ``skip``: (N, c_in, H, W) -> (N, c_out, 2H, 2W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.conv = double_conv(2 * c_out, c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class UNet(nn.Module):
    """(N, 3, H, W) -> (N, num_classes, H, W); H and W must be multiples of 8."""

    def __init__(self, width: int = 32, num_classes: int = 2) -> None:
        super().__init__()
        w = width
        self.down1 = double_conv(3, w)
        self.down2 = double_conv(w, 2 * w)
        self.down3 = double_conv(2 * w, 4 * w)
        self.bottom = double_conv(4 * w, 8 * w)
        self.pool = nn.MaxPool2d(2)
        self.up3 = Up(8 * w, 4 * w)
        self.up2 = Up(4 * w, 2 * w)
        self.up1 = Up(2 * w, w)
        self.head = nn.Conv2d(w, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.down1(x)
        x2 = self.down2(self.pool(x1))
        x3 = self.down3(self.pool(x2))
        x = self.bottom(self.pool(x3))
        x = self.up1(self.up2(self.up3(x, x3), x2), x1)
        return self.head(x)


def build_model() -> nn.Module:
    return UNet()
