"""ResNet-18 for 224x224 images (He et al., arXiv 1512.03385).

The channels of a residual stage are tied together by its additions, so octify makes a whole stage octave, or
none of it:

    octify inspect samples/resnet.py --alpha 0.5
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# octify runs and checks the model on these; (1, 3, 224, 224) is also what it would assume.
example_inputs = (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A stem at a quarter of the resolution, four stages of two blocks, global pooling, a classifier."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512), num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages = []
        c_in = widths[0]
        for i, c_out in enumerate(widths):
            stages.append(
                nn.Sequential(BasicBlock(c_in, c_out, stride=1 if i == 0 else 2), BasicBlock(c_out, c_out))
            )
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(c_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stages(self.stem(x)))
        return self.classifier(x.flatten(1))


def build_model() -> nn.Module:
    return ResNet()
