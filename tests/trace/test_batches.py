"""Questions about the batch are told where they make no difference, and left to the model's code elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import InputSizeError
from tests.oracle import EXACT, assert_same, noise

Act = Callable[[Tensor], Tensor]


def memory_format(x: Tensor) -> Tensor:
    """As diffusers' upsampling asks."""
    if x.shape[0] >= 64:
        x = x.contiguous()
    return x.contiguous() if x.numel() * 4 > 2**31 else x


def nothing_at_all(x: Tensor) -> Tensor:
    return x if x.numel() == 0 else x * 2


def small(x: Tensor) -> Tensor:
    if x.shape[0] > 3:
        raise ValueError("small batches alone")
    return x


def asserted(x: Tensor) -> Tensor:
    assert len(x) <= 3
    return x


def another_way(x: Tensor) -> Tensor:
    return x * 2 if x.shape[0] > 2 else x


def round_in_circles(x: Tensor) -> Tensor:
    while x.shape[0] > 100:
        x = x[:-1]
    return x


class Block(nn.Module):
    def __init__(self, act: Act) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(8, 8, 3, padding=1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x))


def net(act: Act) -> nn.Module:
    torch.manual_seed(0)
    ends = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
    return nn.Sequential(ends[0], Block(act), Block(act), ends[1]).double().eval()


@pytest.mark.parametrize("act", [memory_format, nothing_at_all, small, asserted])
def test_what_makes_no_difference_is_told(act: Act) -> None:
    model = net(act)
    result = octify.convert(model, noise(1, 3, 8, 8), rules="everywhere", kernels="exact")
    assert result.report.totals.converted == 4
    reference = octify.reference(model, result.plan, noise(1, 3, 8, 8))
    for batch in (1, 3):
        x = noise(batch, 3, 12, 8)
        with torch.no_grad():
            assert_same(result.model(x), reference(x), EXACT)


@pytest.mark.parametrize("act", [small, asserted])
def test_where_the_model_stops_the_converted_one_does(act: Act) -> None:
    model = net(act)
    made = octify.convert(model, noise(1, 3, 8, 8), alpha=0.0).model
    for each, error in ((model, (ValueError, AssertionError)), (made, InputSizeError)):
        with pytest.raises(error):
            each(noise(4, 3, 8, 8))


@pytest.mark.parametrize("act", [another_way, round_in_circles])
def test_what_makes_a_difference_stays_the_models_code(act: Act) -> None:
    model = net(act)
    result = octify.convert(model, noise(1, 3, 8, 8), rules="everywhere")
    assert [left.path for left in result.report.left_dense if "cannot be traced" in left.reason] == [
        "1.conv",
        "2.conv",
    ]
    made = octify.convert(model, noise(1, 3, 8, 8), alpha=0.0).model
    for batch in (1, 2, 3):
        with torch.no_grad():
            assert_same(made(noise(batch, 3, 8, 8)), model(noise(batch, 3, 8, 8)), EXACT)
