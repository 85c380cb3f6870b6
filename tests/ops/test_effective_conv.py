"""Convolutions with a forward of their own: what they do is found by watching, and is converted exactly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.nn.padded import OCTAVE_PADDED, flat_pads, padded_conv
from octify.ops.effective_conv import Form, form_of, join_pads, plain_form
from tests.oracle import assert_same, error, noise, parted, projected
from tests.tellable import unless_untellable

timm_layers = pytest.importorskip("timm.layers")

TIMM = ("Conv2dSame", "StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")
KINDS = [getattr(timm_layers, name) for name in TIMM]


def made(kind: Any, *args: Any, **options: Any) -> nn.Module:
    """A layer whose every parameter does something."""
    torch.manual_seed(0)
    layer = kind(*args, **options).double().eval()
    for parameter in layer.parameters():
        parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
    return layer


@pytest.mark.parametrize("kind", KINDS, ids=TIMM)
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (2, 2, 1), (3, 3, 1), (3, 1, 2)]
)
@pytest.mark.parametrize("size", [(12, 12), (13, 12), (9, 11)])
def test_the_plain_form_is_the_layer(
    kind: Any, kernel: int, stride: int, dilation: int, size: tuple[int, int]
) -> None:
    layer = made(kind, 6, 4, kernel, stride=stride, dilation=dilation, groups=2, bias=True)
    x = noise(2, 6, *size)
    form = form_of(layer, x.shape)
    assert isinstance(form, Form)
    assert_same(plain_form(layer, form, x.shape)(x), layer(x))


def converted(net: nn.Module, x: Tensor, alpha: float = 0.5) -> Any:
    """The exact conversion; asserts that it is the projected reference, has no inner merge, and is one."""
    net = net.double().eval()
    result = octify.convert(net, x, alpha=alpha, kernels="exact", rules="everywhere")
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))
        assert error(result.model(x), net(x)) > 1e-6
    assert {b.before for b in result.report.boundaries} <= {"output"}
    return result


@pytest.mark.parametrize("kind", KINDS, ids=TIMM)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_a_network_of_variants_is_exact(kind: Any, alpha: float) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        made(kind, 8, 8, 3, stride=2, bias=True),
        nn.ReLU(),
        made(kind, 8, 8, 5, groups=2),
        made(kind, 8, 8, 3, stride=2, groups=8),
        nn.Conv2d(8, 4, 1),
    )
    result = converted(net, noise(2, 3, 32, 16), alpha)
    assert all(conv.converted for conv in result.plan.convs)


@pytest.mark.parametrize("kind", KINDS, ids=TIMM)
def test_a_dense_variant_is_left_as_it_is(kind: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), made(kind, 8, 8, 3, stride=2)).double().eval()
    x = noise(1, 3, 12, 12)
    result = octify.convert(net, x, alpha=0)
    assert torch.equal(result.model(x), net(x))
    assert type(result.model.get_submodule("1")) is kind


def test_same_padding_keeps_its_sizes_elsewhere() -> None:
    """Converted at an even size, it gives ceil(n / 2) outputs at others, and the rule at other even ones."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), made(timm_layers.Conv2dSame, 8, 8, 3, stride=2), nn.Conv2d(8, 4, 1)
    )
    net = net.double().eval()
    x = noise(1, 3, 16, 16)
    result = octify.convert(net, x, alpha=0.5, kernels="exact", rules="everywhere")
    reference = octify.reference(net, result.plan, x)
    assert any("one sample aside" in warning for warning in result.report.warnings)
    for size in [(16, 20), (32, 8), (15, 16), (13, 17)]:
        other = noise(1, 3, *size)
        assert result.model(other).shape == net(other).shape
        if not any(n % 4 for n in size):
            assert_same(result.model(other), reference(other))


def test_it_trains_and_copies() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), made(timm_layers.ScaledStdConv2d, 8, 8, 3), nn.Conv2d(8, 4, 1)
    )
    x = noise(1, 3, 8, 8)
    model = copy.deepcopy(converted(net, x).model).train()
    model(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


# Layers of other libraries, and what is no convolution.


class OwnPad(nn.Conv2d):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.pad(x), self.weight * 2, self.bias, self.stride)


class Attended(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Demodulated(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x * self.weight.mean(), self.weight)


def test_a_layer_of_ones_own_is_converted() -> None:
    result = converted(
        nn.Sequential(nn.Conv2d(3, 8, 1), OwnPad(8, 8, 3, 2), nn.Conv2d(8, 4, 1)), noise(1, 3, 12, 12)
    )
    assert result.plan.conv("1").converted


@pytest.mark.parametrize("kind", [Attended, Scaled, Twice, Demodulated])
def test_what_is_not_one_convolution_is_refused(kind: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), kind(8, 8, 1), nn.Conv2d(8, 4, 1)).double().eval()
    x = noise(1, 3, 8, 8)
    result = octify.convert(net, x, alpha=0.5, kernels="exact", rules="everywhere")
    left = {entry["path"]: entry["reason"] for entry in result.report.to_dict()["left_dense"]}
    assert left.get("1")
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))


def test_parametrized_and_hooked_norms_of_the_weight() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
        nn.Conv2d(8, 4, 1),
    )
    result = converted(net, noise(1, 3, 8, 8))
    assert all(conv.converted for conv in result.plan.convs)


# Padding modes.


@given(
    st.sampled_from(["replicate", "reflect", "circular"]),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([(8, 10), (12, 6), (10, 12)]),
    st.sets(st.integers(0, 3)),
    st.sets(st.integers(0, 3)),
    st.integers(1, 3),
)
def test_padding_modes_are_exact(
    mode: str,
    kernel: int,
    stride: int,
    dilation: int,
    left: int,
    right: int,
    size: tuple[int, int],
    ins: set[int],
    outs: set[int],
    dims: int,
) -> None:
    """The padded convolution of the projected input, for any pads on either side."""
    size = {1: (size[0],), 2: size, 3: (5, *size)}[dims]
    torch.manual_seed(0)
    shape = (3,) * (dims - 2) + (kernel,) * min(dims, 2)
    weight = nn.Parameter(torch.randn(4, 4, *shape, dtype=torch.float64))
    strides, dilations = (
        (1,) * (dims - 2) + (stride,) * min(dims, 2),
        (1,) * (dims - 2) + (dilation,) * min(dims, 2),
    )
    pads = ((1, 1),) * (dims - 2) + ((left, right),) * min(dims, 2)
    conv = padded_conv(weight, None, strides, dilations, 1, pads, mode)
    x = noise(1, 4, *size)
    assume(all(n + left + right > dilation * (kernel - 1) for n in size[-2:]))
    wanted = conv(projected(x, sorted(ins)) if ins else x)
    assume(all(n % 2 == 0 for n in wanted.shape[2:][-2:]))
    octave = OCTAVE_PADDED[dims].from_conv(conv, sorted(ins), sorted(outs), "exact")
    alone = len(ins) == 4 or len(outs) == 4
    have = unless_untellable(lambda: octave(*parted(x, sorted(ins))), alone=alone)
    for got, want in zip(have, parted(wanted, sorted(outs)), strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("mode", ["replicate", "reflect", "circular"])
@pytest.mark.parametrize("kernels", ["paper", "exact"])
def test_padding_modes_in_networks(mode: str, kernels: str) -> None:
    torch.manual_seed(0)
    net = (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, 2, 1, padding_mode=mode),
            nn.Conv2d(8, 8, 7, 1, 3, padding_mode=mode),
            nn.Conv2d(8, 8, 3, 1, 1, padding_mode=mode, groups=8),
            nn.Conv2d(8, 4, 1),
        )
        .double()
        .eval()
    )
    x = noise(1, 3, 16, 24)
    assert all(conv.converted for conv in converted(net, x).plan.convs)
    paper = octify.convert(net, x, alpha=0.5, kernels="paper", rules="everywhere")
    with torch.no_grad():
        assert paper.model(x).shape == net(x).shape


@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
    st.sampled_from(["zeros", "replicate", "reflect", "circular"]),
    st.sampled_from(["zeros", "replicate", "reflect", "circular"]),
)
def test_paddings_join_only_where_they_are_one(amounts: list[int], first: str, then: str) -> None:
    a, b = (
        ((amounts[0], amounts[1]), (amounts[2], amounts[3])),
        ((amounts[4], amounts[5]), (amounts[6], amounts[7])),
    )
    joined = join_pads((a, first), (b, then))
    if joined is None:
        assert any(amounts[:4]) and any(amounts[4:])
        return

    def pad(x: Tensor, pads: Any, mode: str) -> Tensor:
        return F.pad(x, flat_pads(pads), mode="constant" if mode == "zeros" else mode)

    x = noise(1, 2, 7, 8)
    assert torch.equal(pad(x, *joined), pad(pad(x, a, first), b, then))
