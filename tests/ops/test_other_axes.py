"""Layers and functions named for images, on sequences (N, C, L): their last two axes are C and L."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from tests.oracle import EXACT, noise

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "avg_pool2d, halved": lambda x: F.avg_pool2d(x, (1, 2)),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 1, 1),
    "MaxPool2d": nn.MaxPool2d(3, 1, 1),
    "AvgPool2d": nn.AvgPool2d(3, 1, 1),
    "LPPool2d": nn.LPPool2d(2, 1),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (8, 8)),
    "adaptive_avg_pool2d, same": lambda x: F.adaptive_avg_pool2d(x, (8, None)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (8, 8)),
    "AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d((8, 8)),
    "Softmax2d": lambda x: nn.Softmax2d()(x),
    "Dropout2d": nn.Dropout2d(),
    "pixel_shuffle": lambda x: F.pixel_shuffle(torch.cat([x, x], 0), 2).repeat(2, 1, 1)[:, :8],
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "ZeroPad2d": lambda x: F.pad(x, (1, 1, 1, 1))[:, 1:-1],
    "ReflectionPad2d": lambda x: nn.ReflectionPad2d((2, 2, 1, 1))(x)[:, :8],
    "local_response_norm": lambda x: F.local_response_norm(x, 3),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2.0, 1),
}


class Sequences(nn.Module):
    """Two convolutions along a sequence and ``between``."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 4, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


@pytest.mark.filterwarnings("ignore:dropout2d")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_it_is_the_reference_or_refused(name: str, alpha: float) -> None:
    net, x = Sequences(CASES[name]).double().eval(), noise(2, 3, 16)
    want = net(x)
    try:
        result = octify.convert(net, x, alpha, rules="everywhere", kernels="exact")
    except OctifyError as error:
        pytest.fail(f"an ordinary model is refused: {error}")
    if alpha == 0:
        torch.testing.assert_close(result.model(x), want, rtol=0, atol=EXACT)
    for batch, length in ((2, 16), (4, 24)):
        y = noise(batch, 3, length, seed=1)
        reference = octify.reference(net, result.plan, x)(y)
        torch.testing.assert_close(result.model(y), reference, rtol=0, atol=EXACT)
