"""Linear layers over channels-last maps are 1x1 convolutions: planned, converted and exact as such."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.nn import OctaveConv
from octify.passes.reference import reference
from octify.plan import Plan
from tests.between import assert_refused, converted
from tests.oracle import EXACT, assert_same, noise, randomised


class Permute(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return torch.permute(x, self.dims)


class Mixer(nn.Module):
    """The block of ConvNeXt (Liu et al. 2022), written in several ways."""

    def __init__(self, channels: int, hidden: int, style: str, bias: bool = True) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.widen = nn.Linear(channels, hidden, bias)
        self.narrow = nn.Linear(hidden, channels, bias)
        self.scale = nn.Parameter(torch.randn(channels))
        self.norm = nn.RMSNorm(channels) if style == "moved" else nn.LayerNorm(channels, eps=1e-6)
        self.style = style

    def normalised(self, y: Tensor) -> Tensor:
        """As a layer, or as a function with the layer's weights."""
        if self.style == "scaled inside":
            return F.layer_norm(
                y, self.norm.normalized_shape, self.norm.weight, bias=self.norm.bias, eps=1e-6
            )
        return self.norm(y)

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(x)
        if self.style == "moved":
            y = self.narrow(F.gelu(self.widen(self.normalised(y.movedim(1, -1))))).movedim(-1, 1)
            return x + y * self.scale[:, None, None]
        y = y.permute(0, 2, 3, 1)
        if self.style == "residual inside":
            y = y + self.narrow(self.widen(self.normalised(y)).relu())
            return y.permute(0, 3, 1, 2)
        y = self.narrow(F.gelu(self.widen(self.normalised(y))))
        if self.style == "scaled inside":
            y = self.scale * y
            return x + y.permute(0, 3, 1, 2)
        return x + y.permute(0, 3, 1, 2).contiguous().mul(self.scale.reshape(1, -1, 1, 1))


class Net(nn.Module):
    def __init__(self, blocks: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = blocks
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


STYLES = ["moved", "residual inside", "scaled inside", "scaled outside"]


@settings(max_examples=8)
@given(
    styles=st.lists(st.sampled_from(STYLES), min_size=1, max_size=2),
    hidden=st.sampled_from([4, 16, 24]),
    bias=st.booleans(),
    alpha=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
)
def test_blocks_need_no_merge_and_are_exact(styles: list[str], hidden: int, bias: bool, alpha: float) -> None:
    net = randomised(Net(nn.Sequential(*(Mixer(8, hidden, style, bias) for style in styles))))
    x = noise(2, 3, 8, 12)
    made = converted(net, x, alpha)
    assert made.boundaries == [], [(b.kind, b.before, b.reason) for b in made.boundaries]
    for number in range(len(styles)):
        for name in ("widen", "narrow"):
            path = f"blocks.{number}.{name}"
            assert made.low(path) > 0
            assert isinstance(made.rewritten.module.get_submodule(path), OctaveConv)
    with torch.no_grad():
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)


@pytest.mark.parametrize("style", STYLES)
def test_alpha_0_is_the_original(style: str) -> None:
    net, x = Net(Mixer(8, 16, style)).eval(), noise(2, 3, 8, 12).float()
    result = octify.convert(net, x, alpha=0, rules="everywhere")
    assert isinstance(result.model.get_submodule("blocks.widen"), nn.Linear)
    assert torch.equal(result.model(x), net(x))


def test_a_linear_layer_begins_and_ends_octave_values() -> None:
    """Between dense ones: it splits and merges for free, as a convolution does."""
    net = randomised(Net(Mixer(8, 16, "scaled outside")))
    x = noise(2, 3, 8, 12)
    made = converted(net, x)
    only = next(conv for conv in made.plan.convs if conv.path == "blocks.widen")
    convs = []
    for conv in made.plan.convs:
        low_in, low_out = (), ()
        if conv is only:
            low_out = only.low_out
        elif conv.path == "blocks.narrow":
            low_in = only.low_out
        convs.append(type(conv)(conv.path, conv.in_channels, conv.out_channels, low_in, low_out, "exact"))
    plan = Plan(0.5, "drawn", "exact", made.plan.inputs, tuple(convs))
    result = octify.convert(net, x, plan=plan)
    assert result.report.totals.splits == result.report.totals.merges == 0
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, plan, x)(x), EXACT)


def test_the_plan_and_the_report_list_it_as_a_convolution() -> None:
    net, x = Net(Mixer(8, 16, "scaled outside")), torch.randn(1, 3, 16, 16)
    result = octify.convert(net, x, rules="everywhere")
    entry = result.plan.conv("blocks.widen")
    assert (entry.in_channels, entry.out_channels, entry.alpha_in, entry.alpha_out) == (8, 16, 0.5, 0.5)
    assert "head" not in result.plan.by_path
    rows = {row.path: row for row in result.report.layers}
    assert rows["blocks.widen"].kind == "linear (1x1)"
    # Without the exchange's share a 1x1 convolution costs 1 - 3/4 alpha (2 - alpha) of what it did.
    assert rows["blocks.widen"].macs_after * 16 == rows["blocks.widen"].macs_before * 7
    assert rows["head"].kind == "linear"
    totals = result.report.totals
    assert totals.parameters_before == totals.parameters_after


def test_it_can_be_excluded_and_then_the_plan_replays() -> None:
    net, x = Net(Mixer(8, 16, "scaled outside")), torch.randn(1, 3, 16, 16)
    result = octify.convert(net, x, rules="everywhere", exclude=["*.widen"])
    assert result.plan.conv("blocks.widen").reason == "excluded by *.widen"
    assert [left.path for left in result.report.left_dense] == ["blocks.widen"]
    again = octify.convert(net, x, plan=result.plan)
    assert torch.equal(again.model(x), result.model(x))


def test_shared_by_two_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = x.permute(0, 2, 3, 1)
            return self.linear(self.linear(y).relu()).permute(0, 3, 1, 2)

    net, x = randomised(Net(Twice())), noise(2, 3, 8, 12)
    made = converted(net, x)
    assert made.boundaries == [] and made.low("blocks.linear")
    with torch.no_grad():
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)


Function = Callable[[Tensor], Tensor]


class Tokens(nn.Module):
    """A linear layer over tokens, or over the width: no 1x1 convolution of a map."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.linear = nn.Linear(12 if style == "width" else 8, 12 if style == "width" else 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "width":
            return self.linear(x)
        tokens = self.linear(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize(
    ("style", "reason"), [("width", "mixes positions"), ("tokens", "joins or splits positions")]
)
def test_other_linear_layers_stay(style: str, reason: str) -> None:
    assert_refused(Tokens(style), reason)


def test_it_exports(tmp_path: object) -> None:
    from pathlib import Path

    net, x = Net(Mixer(8, 16, "scaled outside")).eval(), torch.randn(2, 3, 16, 16)
    result = octify.convert(net, x, rules="everywhere")
    exported = octify.export_onnx(result.model, x, Path(str(tmp_path)) / "net.onnx")
    assert exported.passed
