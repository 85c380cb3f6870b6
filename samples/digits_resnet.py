"""A small ResNet that reads 32x32 grey images of handwritten digits; trained weights lie beside it.

Maps are 32x32, 16x16 and 8x8. `train_digits.py` made digits_resnet.safetensors, `evaluate_digits.py` measures
accuracy, before and after a conversion:

    octify convert samples/digits_resnet.py --weights samples/digits_resnet.safetensors --alpha 0.5 -o out
    python samples/evaluate_digits.py out
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

example_inputs = (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)),)


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


class DigitsResNet(nn.Module):
    """(N, 1, 32, 32) images with values in [0, 1] -> (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.stage1 = nn.Sequential(BasicBlock(32, 32), BasicBlock(32, 32))
        self.stage2 = nn.Sequential(BasicBlock(32, 64, stride=2), BasicBlock(64, 64))
        self.stage3 = nn.Sequential(BasicBlock(64, 96, stride=2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.classifier(self.pool(x).flatten(1))


def build_model() -> nn.Module:
    return DigitsResNet()
