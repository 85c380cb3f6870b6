"""Padding of octave values: a part of the convolution that reads it, or an operation per branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.nn.padding import octave_pad, pad_channels
from tests.oracle import assert_same, error, noise, parted, projected

MODES = ("constant", "replicate", "reflect", "circular")


@given(
    st.sampled_from(MODES),
    st.lists(st.integers(-2, 4), min_size=4, max_size=4),
    st.sampled_from([(8, 6), (7, 8), (6, 9)]),
    st.integers(1, 3),
    st.floats(-2, 2),
)
def test_padding_is_padding_of_the_projected_value(
    mode: str, amounts: list[int], size: tuple[int, int], dims: int, value: float
) -> None:
    """Whatever the amounts and the size, even at odd ones."""
    amounts = amounts[: 2 * min(dims, 2)]
    assume(mode != "circular" or min(amounts) >= 0)
    size = {1: size[1:], 2: size, 3: (4, *size)}[dims]
    if dims == 3 and mode != "constant":
        amounts = [*amounts, 1, 1]
    x = noise(1, 4, *size)
    given_value = value if mode == "constant" else None
    have = octave_pad(*parted(x, (1, 2)), amounts, mode, given_value)
    want = parted(F.pad(projected(x, (1, 2)), amounts, mode, given_value), (1, 2))
    for got, wanted in zip(have, want, strict=True):
        assert_same(got, wanted)


@given(
    st.sets(st.integers(0, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_channels_of_constants(low: set[int], high_ends: tuple[int, int], low_ends: tuple[int, int]) -> None:
    x = noise(1, 4, 6, 8)
    high, low_part = pad_channels(*parted(x, sorted(low)), high_ends, low_ends, 3.0)
    for part, count, ends, size in (
        (high, 4 - len(low), high_ends, (6, 8)),
        (low_part, len(low), low_ends, (3, 4)),
    ):
        if count + sum(ends) == 0:
            assert part is None
            continue
        assert part.shape == (1, count + sum(ends), *size)
        assert bool((part[:, : ends[0]] == 3).all()) and bool((part[:, ends[0] + count :] == 3).all())


def check(net: nn.Module, x: Tensor, alpha: float = 0.5) -> Any:
    torch.manual_seed(0)
    net = net.double().eval()
    result = octify.convert(net, x, alpha=alpha, kernels="exact", rules="everywhere")
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))
        assert error(result.model(x), net(x)) > 1e-6
    assert {b.before for b in result.report.boundaries} <= {"output"}
    return result


PAD_LAYERS = [
    nn.ZeroPad2d((0, 1, 0, 1)),
    nn.ZeroPad2d(1),
    nn.ZeroPad2d((2, 0, 1, -1)),
    nn.ReflectionPad2d(1),
    nn.ReflectionPad2d(3),
    nn.ReplicationPad2d((1, 2, 0, 3)),
    nn.CircularPad2d(1),
    nn.ConstantPad2d(1, 0.0),
]


@pytest.mark.parametrize("pad", PAD_LAYERS, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_padding_becomes_part_of_its_convolution(pad: nn.Module, stride: int) -> None:
    """The converted network has no padding left, and the padded value is not projected."""
    x = noise(1, 3, 12, 16)
    padded = pad(torch.empty(1, 1, 12, 16)).shape[2:]
    kernel = tuple(2 + (n - 2) // stride % 2 if stride == 1 else 2 for n in padded)
    kernel = tuple(
        k if ((n - k) // stride + 1) % 2 == 0 else k + stride for n, k in zip(padded, kernel, strict=True)
    )
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pad, nn.Conv2d(8, 8, kernel, stride), nn.Conv2d(8, 4, 1)
    )
    result = check(net, x)
    assert all(conv.converted for conv in result.plan.convs)
    targets = {node.target for node in result.model.graph.nodes}
    assert not targets & {"2", F.pad, octave_pad}


@pytest.mark.parametrize("amounts", [(2, 2, 4, 2), (1, 1, 1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_padding_read_by_others_stays(amounts: tuple[int, ...], value: float) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ConstantPad2d(amounts, value), nn.Sigmoid(), nn.Conv2d(8, 4, 1)
    )
    result = check(net, noise(1, 3, 12, 12))
    assert any(node.target is octave_pad for node in result.model.graph.nodes)


class Shared(nn.Module):
    """One padding for a convolution that is converted, one that is left, and a second call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.stem(x).relu(), (1, 1, 1, 1))
        return self.a(x) + self.b(x)


def test_a_padding_of_two_convolutions() -> None:
    check(Shared(), noise(1, 3, 12, 12))
    net, x = Shared().double().eval(), noise(1, 3, 12, 12)
    result = octify.convert(net, x, kernels="exact", rules="everywhere", exclude=["b"])
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))
    assert result.plan.conv("a").converted and not result.plan.conv("b").converted
    dense = octify.convert(net, x, alpha=0)
    assert torch.equal(dense.model(x), net(x))


class Reused(nn.Module):
    """One convolution called with and without a padding before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.end = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.end(self.a(F.pad(x, (1, 1, 1, 1)))).mean() + self.end(self.a(x))


def test_calls_that_are_padded_differently_leave_the_convolution() -> None:
    net, x = Reused().double().eval(), noise(1, 3, 12, 12)
    result = octify.convert(net, x, kernels="exact", rules="everywhere")
    assert not result.plan.conv("a").converted
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))


class Wider(nn.Module):
    """Shortcuts that gain channels by zeros, as in PyramidNet and ResNets' option A."""

    def __init__(self, front: int, back: int) -> None:
        super().__init__()
        self.ends = (front, back)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8 + front + back, 3, 2, 1)
        self.more = nn.Conv2d(8 + front + back, 8 + front + back, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        short = F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, *self.ends))
        x = (self.body(x) + short).relu()
        return self.more(x)


@pytest.mark.parametrize("ends", [(0, 4), (2, 2), (3, 0)])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_padded_channels_follow_what_they_are_added_to(ends: tuple[int, int], alpha: float) -> None:
    check(Wider(*ends), noise(2, 3, 16, 16), alpha)


class Aligned(nn.Module):
    """U-Net's way: the amounts are differences of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.end = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.stem(x)
        up = F.interpolate(self.down(skip), scale_factor=2)
        dy, dx = skip.size()[2] - up.size()[2], skip.size()[3] - up.size()[3]
        up = F.pad(up, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.end(torch.cat([skip, up], 1))


def test_amounts_computed_from_sizes() -> None:
    net, x = Aligned().double().eval(), noise(1, 3, 12, 16)
    result = octify.convert(net, x, kernels="exact", rules="everywhere")
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))
    assert any(node.target is octave_pad for node in result.model.graph.nodes)
