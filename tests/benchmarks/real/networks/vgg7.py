"""waifu2x's vgg7, which takes the noise of JPEG from pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.benchmarks.real.measures import pictures
from tests.benchmarks.real.networks.model import Network, file_of
from tests.benchmarks.real.photos import jpeg

_WIDTHS = (3, 32, 32, 64, 64, 128, 128, 3)


def build() -> nn.Module:
    layers: list[nn.Module] = []
    with np.load(file_of("waifu2x", "models/vgg7/anime_style_noise1_rgb.npz")) as stored:
        for i in range(1, len(_WIDTHS)):
            conv = nn.Conv2d(_WIDTHS[i - 1], _WIDTHS[i], 3)
            with torch.no_grad():
                conv.weight.copy_(torch.from_numpy(stored[f"conv{i}/W"]))
                assert conv.bias is not None
                conv.bias.copy_(torch.from_numpy(stored[f"conv{i}/b"]))
            layers += [conv, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers[:-1]).eval()


NETWORK = Network(
    "vgg7",
    "waifu2x vgg7 (JPEG noise)",
    "waifu2x",
    build,
    64,
    lambda x: x,
    pictures(),
    change=jpeg(75),
)
