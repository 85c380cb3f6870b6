"""What ``fast`` and ``int8`` take, by block: bottlenecks, inverted residuals, ConvNeXt's blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.plan import Plan
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace


class Bottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 4
        self.squeeze, self.mix = nn.Conv2d(channels, narrow, 1), nn.Conv2d(narrow, narrow, 3, padding=1)
        self.expand = nn.Conv2d(narrow, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.expand(F.relu(self.mix(F.relu(self.squeeze(x))))))


class Inverted(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 6 * channels
        self.expand, self.depthwise = (
            nn.Conv2d(channels, wide, 1),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
        )
        self.project = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))


class ConvNext(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.expand, self.project = (
            nn.Conv2d(channels, 4 * channels, 1),
            nn.Conv2d(4 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.gelu(self.expand(self.depthwise(x))))


def plan_of(block: type[nn.Module], rules: str, channels: int, alpha: float = 0.5) -> Plan:
    """Two blocks between a stem and a convolution that reads their sum."""
    net = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        block(channels),  # type: ignore[call-arg]
        block(channels),  # type: ignore[call-arg]
        nn.Conv2d(channels, channels, 3, 2, padding=1),
        nn.Conv2d(channels, 8, 3, padding=1),
    )
    return make_plan(trace(net.eval(), torch.zeros(1, 3, 56, 56)), load_rules(rules), alpha)


@pytest.mark.parametrize(("rules", "exchange"), [("fast", "high-to-low"), ("int8", "spatial")])
def test_bottlenecks_exchange_in_their_3x3(rules: str, exchange: str) -> None:
    plan = plan_of(Bottleneck, rules, 256)
    assert plan.by_path["1.mix"].exchange == plan.by_path["2.mix"].exchange == "full"
    assert plan.by_path["1.expand"].exchange == plan.by_path["2.squeeze"].exchange == exchange
    assert all(plan.by_path[f"{i}.{name}"].low_out for i in (1, 2) for name in ("squeeze", "mix", "expand"))


@pytest.mark.parametrize("rules", ["fast", "int8"])
def test_inverted_residuals_are_octave_inside(rules: str) -> None:
    plan = plan_of(Inverted, rules, 32)
    for i in (1, 2):
        assert plan.by_path[f"{i}.expand"].low_out and not plan.by_path[f"{i}.expand"].low_in
        assert plan.by_path[f"{i}.project"].low_in and not plan.by_path[f"{i}.project"].low_out


@pytest.mark.parametrize("rules", ["fast", "int8"])
def test_convnext_blocks_are_octave_throughout(rules: str) -> None:
    """Their expansion reads a depthwise convolution too, but it widens."""
    plan = plan_of(ConvNext, rules, 64)
    for name in ("1.project", "2.expand", "2.project"):  # the first block reads the stem, which is dense
        conv = plan.by_path[name]
        assert conv.low_in and conv.low_out
        assert conv.exchange == "full"  # a depthwise convolution lets nothing meet


@pytest.mark.parametrize(("rules", "least"), [("fast", 16), ("int8", 32)])
@pytest.mark.parametrize("alpha", [0.125, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("channels", [32, 64, 128])
def test_no_branch_is_narrow(rules: str, least: int, alpha: float, channels: int) -> None:
    plan = plan_of(Bottleneck, rules, channels, alpha)
    for conv in plan.convs:
        for width, low in ((conv.in_channels, conv.low_in), (conv.out_channels, conv.low_out)):
            assert not low or len(low) >= least, conv.path
            assert not low or width == len(low) or width - len(low) >= least, conv.path
