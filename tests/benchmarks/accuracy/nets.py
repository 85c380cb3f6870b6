"""Four small trained networks of different kinds, for 3x32x32 images: ``load("resnet", "textures")``.

| net       | kind                                              | MMACs | parameters |
|-----------|---------------------------------------------------|-------|------------|
| resnet    | ResNet-14: basic blocks at 32-64-96 channels      |  23.9 |    484 000 |
| vgg       | VGG-6: five convolutions, max pools, one linear   |  23.9 |    169 000 |
| mobilenet | MobileNetV2's blocks with squeeze-and-excitation  |  14.4 |    165 000 |
| densenet  | pre-activation dense blocks, growth 32            |  17.9 |    133 000 |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tests.benchmarks.accuracy.data import CLASSES

CHECKPOINTS = Path(__file__).parent / "checkpoints"


def load(net: str, task: str) -> nn.Module:
    """The trained network, float32, in eval mode; ``net`` of `NETS`, ``task`` of ``data.CLASSES``."""
    model = build(net, task)
    with safe_open(checkpoint(net, task), "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    model.load_state_dict({name: w.float() if w.is_floating_point() else w for name, w in weights.items()})
    return model.eval()


def build(net: str, task: str) -> nn.Module:
    """The untrained network, initialised from torch's global generator."""
    return NETS[net](CLASSES[task])


def checkpoint(net: str, task: str) -> Path:
    return CHECKPOINTS / f"{net}-{task}.safetensors"


def metadata(net: str, task: str) -> dict[str, str]:
    """What `train` noted: ``test_accuracy`` (a share), ``choose_accuracy``, ``epochs``, ..."""
    with safe_open(checkpoint(net, task), "pt") as file:
        return dict(file.metadata())


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def conv_bn(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(c_in, c_out, kernel, stride, groups), nn.BatchNorm2d(c_out))


def head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(c_in, c_out, 3, stride)
        self.conv2 = conv_bn(c_out, c_out)
        same = c_in == c_out and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(c_in, c_out, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(x))) + self.shortcut(x))


class ResNet14(nn.Sequential):
    def __init__(self, classes: int) -> None:
        widths = (32, 32, 64, 96)
        blocks = [
            BasicBlock(c_in if i == 0 else c_out, c_out, 2 if i == 0 else 1)
            for c_in, c_out in itertools.pairwise(widths)
            for i in range(2)
        ]
        super().__init__(conv_bn(3, 32), nn.ReLU(), *blocks, head(96, classes))


class VGG6(nn.Sequential):
    def __init__(self, classes: int) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out, pooled in (
            (3, 32, False),
            (32, 32, True),
            (32, 64, True),
            (64, 96, False),
            (96, 96, True),
        ):
            layers += [conv_bn(c_in, c_out), nn.ReLU(), *([nn.MaxPool2d(2)] if pooled else [])]
        super().__init__(*layers, head(96, classes))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 8, 1)
        self.expand = nn.Conv2d(channels // 8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class InvertedResidual(nn.Module):
    def __init__(self, c_in: int, c_mid: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_bn(c_in, c_mid, 1),
            nn.ReLU6(),
            conv_bn(c_mid, c_mid, 3, stride, groups=c_mid),
            nn.ReLU6(),
            SqueezeExcite(c_mid),
            conv_bn(c_mid, c_out, 1),
        )
        self.same = c_in == c_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.same else self.branch(x)


class MobileNet(nn.Sequential):
    def __init__(self, classes: int) -> None:
        blocks = ((32, 96, 32, 2), (32, 128, 32, 1), (32, 128, 64, 2), (64, 256, 64, 1), (64, 256, 64, 1))
        body = [InvertedResidual(*block) for block in blocks]
        super().__init__(
            conv_bn(3, 32), nn.ReLU6(), *body, conv_bn(64, 192, 1), nn.ReLU6(), head(192, classes)
        )


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv = conv(channels, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.relu(self.norm(x)))], 1)


class DenseNet(nn.Sequential):
    def __init__(self, classes: int) -> None:
        def block(channels: int, layers: int, growth: int = 32) -> nn.Sequential:
            return nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(layers)))

        transition = nn.Sequential(nn.BatchNorm2d(112), nn.ReLU(), conv(112, 64, 1), nn.AvgPool2d(2))
        super().__init__(
            nn.Sequential(conv_bn(3, 48), nn.ReLU(), nn.MaxPool2d(2)),
            block(48, 2),
            transition,
            block(64, 3),
            nn.Sequential(nn.BatchNorm2d(160), nn.ReLU()),
            head(160, classes),
        )


NETS: dict[str, Callable[[int], nn.Module]] = {
    "resnet": ResNet14,
    "vgg": VGG6,
    "mobilenet": MobileNet,
    "densenet": DenseNet,
}
