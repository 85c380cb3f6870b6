"""Octave transposed convolutions of 1, 2 and 3 dimensions against the layer they were made from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import octify
from octify.kernels.transposed import path_share
from octify.nn import OctaveConvTranspose, OctaveConvTranspose1d, OctaveConvTranspose2d, OctaveConvTranspose3d
from octify.nn.conv_transpose import transposed_axes
from tests.oracle import assert_same, error, noise, parted, projected, randomised

DENSE: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
OCTAVE: dict[int, type[OctaveConvTranspose]] = {
    1: OctaveConvTranspose1d,
    2: OctaveConvTranspose2d,
    3: OctaveConvTranspose3d,
}


def check(conv: nn.Module, x: Tensor, low_in: tuple[int, ...], low_out: tuple[int, ...]) -> None:
    octave = OCTAVE[x.ndim - 2].from_conv(conv, low_in, low_out, "exact")
    wanted = parted(conv(projected(x, low_in)), low_out)
    for got, want in zip(octave(*parted(x, low_in)), wanted, strict=True):
        assert_same(got, want)


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, Tensor, tuple[int, ...], tuple[int, ...]]:
    """A transposed convolution, an input, its low input and output channels; all sizes even."""
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2]))
    into, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    each = []
    for axis in range(dims):
        kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 2))
        padding = draw(st.integers(0, dilation * (kernel - 1)))
        more = draw(st.integers(0, max(stride, dilation) - 1))
        n = draw(st.sampled_from([4, 6, 8]))
        length = (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + more
        assume(length > 2 and (length % 2 == 0 or (dims == 3 and axis == 0)))
        each.append((kernel, stride, padding, more, dilation, n))
    kernel, stride, padding, more, dilation, size = zip(*each, strict=True)
    torch.manual_seed(draw(st.integers(0, 99)))
    conv = DENSE[dims](
        into, out, kernel, stride, padding, more, groups, draw(st.booleans()), dilation
    ).double()
    low_in = tuple(sorted(draw(st.sets(st.integers(0, into - 1)))))
    low_out = tuple(sorted(draw(st.sets(st.integers(0, out - 1)))))
    return conv, noise(2, into, *size), low_in, low_out


@given(layers())
def test_it_is_the_transposed_convolution_of_the_projected_input(drawn: Any) -> None:
    check(*drawn)


USUAL = [
    (2, 2, 0, 0),
    (4, 2, 1, 0),
    (3, 2, 1, 1),
    (6, 4, 1, 0),
    (4, 4, 0, 0),
    (3, 1, 1, 0),
    (5, 2, 2, 1),
    (3, 3, 0, 0),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "more"), USUAL)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_usual_ones(kernel: int, stride: int, padding: int, more: int, groups: int) -> None:
    conv = nn.ConvTranspose2d(8, 8, kernel, stride, padding, more, groups).double()
    low_out = (0, 1, 5) if groups == 8 else (2, 6)
    check(conv, noise(2, 8, 8, 12), (0, 1, 5) if groups == 8 else (1, 3, 4, 6), low_out)


def test_two_by_two_is_made_of_small_convolutions() -> None:
    """Section 1 of the design: high to low is a 1x1 convolution with the mean kernel, low to low that, then U."""
    made = OctaveConvTranspose2d.from_conv(nn.ConvTranspose2d(8, 8, 2, 2), (4, 5, 6, 7), (0, 1, 2, 3))
    for conv in (made.high_to_low, made.low_to_low):
        assert isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.stride == (1, 1)
    assert made.high_to_high.kernel_size == (2, 2)


@pytest.mark.parametrize("size", [(7, 8), (9, 5)])
@pytest.mark.parametrize(("kernel", "stride", "padding", "more"), [(2, 2, 0, 0), (4, 2, 1, 0), (3, 2, 1, 1)])
def test_odd_sizes_differ_at_the_border_only(
    size: tuple[int, int], kernel: int, stride: int, padding: int, more: int
) -> None:
    conv = nn.ConvTranspose2d(4, 4, kernel, stride, padding, more).double()
    x = noise(1, 4, *size)
    octave = OctaveConvTranspose2d.from_conv(conv, (1, 2), (0, 3), "exact")
    for got, want in zip(octave(*parted(x, (1, 2))), parted(conv(projected(x, (1, 2))), (0, 3)), strict=True):
        assert got.shape == want.shape
        assert_same(got[..., :-2, :-2], want[..., :-2, :-2])


@pytest.mark.parametrize("axes", USUAL)
@pytest.mark.parametrize(
    ("low_in", "low_out"), [((), (0, 1, 2, 3)), ((0, 1, 2, 3), ()), ((0, 1, 2, 3), (0, 1, 2, 3))]
)
def test_the_planner_counts_what_is_computed(
    axes: tuple[int, ...], low_in: tuple[int, ...], low_out: tuple[int, ...]
) -> None:
    """On the last three paths alone, for channels all on one side."""
    kernel, stride, padding, more = axes
    conv = nn.ConvTranspose2d(4, 4, kernel, stride, padding, more)
    made = OctaveConvTranspose2d.from_conv(conv, low_in, low_out)
    x = torch.randn(1, 4, 16, 16)

    def macs(layer: nn.Module, *inputs: Tensor | None) -> int:
        with FlopCounterMode(display=False) as counter:
            layer(*inputs)
        return counter.get_total_flops() // 2

    name = f"{'low' if low_in else 'high'}_to_{'low' if low_out else 'high'}"
    high, low = parted(x, low_in)
    share = path_share(name, transposed_axes(conv))
    # A convolution's MACs are counted at its output, which may be a sample longer or shorter.
    assert macs(made, high, low) == pytest.approx(share * macs(conv, x), rel=0.3)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("alpha_in", "alpha_out"), [(0.5, 0.25), (0.0, 0.5), (0.5, 0.0), (1.0, 1.0)])
def test_by_hand(dims: int, alpha_in: float, alpha_out: float) -> None:
    layer = OCTAVE[dims](8, 12, 4, 2, 1, alpha_in=alpha_in, alpha_out=alpha_out)
    size = {1: (16,), 2: (16, 8), 3: (6, 16, 8)}[dims]
    low_in, low_out = tuple(range(8 - int(8 * alpha_in), 8)), tuple(range(12 - int(12 * alpha_out), 12))
    have = layer(*parted(torch.randn(2, 8, *size), low_in))
    want = parted(DENSE[dims](8, 12, 4, 2, 1)(torch.randn(2, 8, *size)), low_out)
    for got, wanted in zip(have, want, strict=True):
        assert (got is None) == (wanted is None)
        assert got is None or got.shape == wanted.shape


class UNet(nn.Module):
    """Down twice, up twice by a transposed convolution, with skips."""

    def __init__(self, **up: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.Conv2d(16, 16, 3, 2, 1),
        )
        self.up1, self.norm = nn.ConvTranspose2d(16, 16, **up), nn.BatchNorm2d(16)
        self.d, self.up2 = nn.Conv2d(32, 16, 3, 1, 1), nn.ConvTranspose2d(16, 8, **up)
        self.end = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = self.b(a).relu()
        y = self.norm(self.up1(self.c(b).relu())).relu()
        y = self.d(torch.cat([y, b], 1)).relu()
        return self.end(torch.cat([self.up2(y), a], 1))


UPS = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 4, "bias": False},
]


@pytest.mark.parametrize("up", UPS, ids=str)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_unets_are_exact(up: dict[str, Any], alpha: float) -> None:
    net, x = randomised(UNet(**up)), noise(2, 3, 32, 16)
    result = octify.convert(net, x, alpha=alpha, kernels="exact", rules="everywhere")
    assert {"up1", "up2"} <= {conv.path for conv in result.plan.convs if conv.low_in and conv.low_out}
    assert not [b for b in result.report.boundaries if b.before != "output"]
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))
        assert error(result.model(x), net(x)) > 1e-6
        paper = octify.convert(net, x, alpha=alpha, rules="everywhere")
        assert paper.model(x).shape == net(x).shape
        assert torch.equal(octify.convert(net, x, alpha=0).model(x), net(x))
    result.model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in result.model.parameters())


class Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.end = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ConvTranspose2d(8, 8, 3, 2, 1),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.up(self.a(x), output_size=x.shape[2:]))


def test_a_given_output_size_is_refused() -> None:
    net, x = Sized().double(), noise(1, 3, 16, 16)
    result = octify.convert(net, x, kernels="exact", rules="everywhere")
    left = {entry["path"]: entry["reason"] for entry in result.report.to_dict()["left_dense"]}
    assert "size of its output" in left["up"]
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))
