"""MobileNetV2 (Sandler et al., arXiv 1801.04381) with squeeze-and-excitation for 224x224 images.

Depthwise convolutions keep the two resolutions apart, 1x1 convolutions exchange between them, and the gates
of squeeze-and-excitation need only the mean of each channel, which does not change with the resolution:

    octify inspect samples/mobilenetv2_se.py --alpha 0.5
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

example_inputs = (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)

# expansion, output channels, number of blocks, stride of the first (table 2 of the paper)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]


class SqueezeExcitation(nn.Module):
    """Scales each channel of (N, C, H, W) by a gate in (0, 1) computed from all channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.reduce(self.pool(x)))
        return x * torch.sigmoid(self.expand(gate))


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (3x3 depthwise), gate, project (1x1); added to the input where shapes agree."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        expand = [*conv_bn(c_in, hidden, 1), nn.ReLU6()] if expansion != 1 else []
        self.body = nn.Sequential(
            *expand,
            *conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU6(),
            SqueezeExcitation(hidden, squeezed=max(8, c_in // 4)),
            *conv_bn(hidden, c_out, 1),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2SE(nn.Module):
    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        c_in = 32
        for expansion, c_out, count, stride in STAGES:
            for i in range(count):
                blocks.append(InvertedResidual(c_in, c_out, stride if i == 0 else 1, expansion))
                c_in = c_out
        self.stem = nn.Sequential(*conv_bn(3, 32, 3, stride=2), nn.ReLU6())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*conv_bn(c_in, 1280, 1), nn.ReLU6())
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.classifier(x.mean((2, 3)))


def build_model() -> nn.Module:
    return MobileNetV2SE()
