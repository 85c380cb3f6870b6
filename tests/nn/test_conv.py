"""Octave convolutions of 1, 2 and 3 dimensions against the convolution they were made from."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from octify.errors import PlanError
from octify.kernels.taps import PATHS, Scheme
from octify.nn import OctaveConv, OctaveConv1d, OctaveConv2d, OctaveConv3d
from octify.nn.groups import UnevenGroups, is_scattered
from tests.oracle import EXACT, P, U, assert_same, high_of, noise, parted, projected
from tests.tellable import unless_untellable

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
OCTAVE: dict[int, type[OctaveConv]] = {1: OctaveConv1d, 2: OctaveConv2d, 3: OctaveConv3d}
SCHEMES: tuple[Scheme, ...] = ("paper", "exact")


def macs(module: nn.Module, *inputs: Tensor | None) -> int:
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def length(n: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def low_channels(draw: st.DrawFn, channels: int, groups: int, all_of_them: bool = True) -> tuple[int, ...]:
    """Any channels: none, some (not contiguous, and not as many in every group) or all."""
    per = channels // groups
    if draw(st.booleans()):
        count = draw(st.integers(0, per if all_of_them else per - 1))
        counts = [count] * groups
    else:
        counts = draw(st.lists(st.integers(0, per), min_size=groups, max_size=groups))
        assume(all_of_them or sum(counts) < channels)
    chosen = [
        g * per + c
        for g, count in enumerate(counts)
        for c in draw(st.permutations(range(per)).map(lambda order, count=count: order[:count]))
    ]
    return tuple(sorted(chosen))


@st.composite
def convolutions(
    draw: st.DrawFn, even: bool = True
) -> tuple[nn.Module, Tensor, tuple[int, ...], tuple[int, ...]]:
    """A convolution, an input, its low input channels and its low output channels.

    With ``even`` all halved sizes are even, in and out; else the last axis is odd. A low branch alone
    is taken to stand for twice its size (1 for 1), so without a high one sizes are even and above 2.
    """
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3, 8]))
    into, out = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))
    each: list[tuple[int, int, int, int, int]] = []
    for axis in range(dims):
        kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        dilation = draw(st.integers(1, 3))
        padding = draw(st.integers(0, dilation * (kernel - 1)))
        sizes = [
            n
            for n in range(1, 19)
            if length(n, kernel, stride, padding, dilation) >= 2
            and (
                (n % 2 == 0 and length(n, kernel, stride, padding, dilation) % 2 == 0)
                if even
                else ((n % 2 == 1 and n > 1) or axis < dims - 1)
            )
        ]
        assume(sizes)
        each.append((kernel, stride, padding, dilation, draw(st.sampled_from(sizes[:6]))))
    kernel, stride, padding, dilation, size = zip(*each, strict=True)
    torch.manual_seed(draw(st.integers(0, 99)))
    conv = CONV[dims](into, out, kernel, stride, padding, dilation, groups, bias=draw(st.booleans())).double()
    x = noise(2, into, *size)
    certain = all(n % 2 == 0 and n > 2 for n in size[-2:])
    return conv, x, low_channels(draw, into, groups, certain), low_channels(draw, out, groups)


def check_exact(conv: nn.Module, x: Tensor, low_in: tuple[int, ...], low_out: tuple[int, ...]) -> None:
    """The octave convolution on the stored input gives the stored form of ``conv`` on the projected input."""
    octave = OCTAVE[x.ndim - 2].from_conv(conv, low_in, low_out, "exact")
    alone = len(low_in) == conv.in_channels or len(low_out) == conv.out_channels
    high, low = unless_untellable(lambda: octave(*parted(x, low_in)), alone=alone)
    wanted_high, wanted_low = parted(conv(projected(x, low_in)), low_out)
    assert_same(high, wanted_high)
    assert_same(low, wanted_low)


@given(convolutions())
def test_exact_is_the_convolution_of_the_projected_input(drawn: Any) -> None:
    check_exact(*drawn)


@given(
    st.integers(2, 6),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sets(st.integers(0, 5)),
    st.booleans(),
)
def test_exact_depthwise_passes_the_layout_on(
    channels: int, multiplier: int, kernel: int, stride: int, dilation: int, chosen: set[int], bias: bool
) -> None:
    """One input channel per group: its outputs are low where it is."""
    low = tuple(sorted(c for c in chosen if c < channels))
    padding = dilation * (kernel - 1) // 2
    if kernel % 2 == 0:
        kernel += 1
        padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(
        channels, channels * multiplier, kernel, stride, padding, dilation, groups=channels, bias=bias
    ).double()
    low_out = tuple(c * multiplier + m for c in low for m in range(multiplier))
    check_exact(conv, noise(2, channels, 8, 12), low, low_out)


@pytest.mark.parametrize("low_in", [(), (0, 2, 5), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("low_out", [(), (1, 2, 6), (0, 1, 2, 3, 4, 5, 6, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_alpha_0_and_1_on_either_side(low_in: tuple[int, ...], low_out: tuple[int, ...], stride: int) -> None:
    conv = nn.Conv2d(6, 8, 3, stride, 1).double()
    check_exact(conv, noise(2, 6, 8, 12), low_in, low_out)
    made = OctaveConv2d.from_conv(conv, low_in, low_out)
    have = {name for name in PATHS if getattr(made, name) is not None}
    assert have == {
        f"{source}_to_{target}"
        for source, there in (("high", len(low_in) < 6), ("low", bool(low_in)))
        for target, here in (("high", len(low_out) < 8), ("low", bool(low_out)))
        if there and here
    }


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_dense_is_the_convolution_itself(scheme: Scheme) -> None:
    conv = nn.Conv2d(6, 8, 3, 2, 1)
    x = torch.randn(2, 6, 9, 12)
    high, low = OctaveConv2d.from_conv(conv, (), (), scheme)(x, None)
    assert low is None
    assert torch.equal(high, conv(x))


@given(convolutions())
def test_paper_keeps_shapes_and_parameters(drawn: Any) -> None:
    """The four paths partition the kernel, so the parameter count is unchanged; every branch has its bias once."""
    conv, x, low_in, low_out = drawn
    octave = OCTAVE[x.ndim - 2].from_conv(conv, low_in, low_out, "paper")
    alone = len(low_in) == x.shape[1] or len(low_out) == conv.out_channels
    have = unless_untellable(lambda: octave(*parted(x, low_in)), alone=alone)
    want = parted(conv(x), low_out)
    for got, wanted in zip(have, want, strict=True):
        assert (got is None) == (wanted is None)
        assert got is None or (got.shape == wanted.shape and bool(got.isfinite().all()))
    assert sum(p.numel() for p in octave.parameters()) == sum(p.numel() for p in conv.parameters())


@given(convolutions(), st.sampled_from(SCHEMES))
def test_from_conv_leaves_the_convolution_alone(drawn: Any, scheme: Scheme) -> None:
    conv, x, low_in, low_out = drawn
    before = {name: value.clone() for name, value in conv.state_dict().items()}
    made = OCTAVE[x.ndim - 2].from_conv(conv, low_in, low_out, scheme)
    for parameter in made.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items())


@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 99))
def test_paper_keeps_what_a_constant_input_becomes(
    kernel: int, stride: int, dilation: int, padding: int, seed: int
) -> None:
    """In the middle of a constant map every fitted path has the original's gain, to 1 %.

    The weights of an old tap in a new kernel sum to 1 within 1 % along each of the two axes (see
    test_kernels), so an output differs by at most (1.01^2 - 1) of ``sum |w| |x|``.
    """
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 6, kernel, stride, padding, dilation).double()
    x = noise(1, 4, 1, 1, seed=seed).expand(1, 4, 96, 96)
    have = OctaveConv2d.from_conv(conv, (0, 3), (1, 2, 4), "paper")(*parted(x, (0, 3)))
    want = parted(conv(x), (1, 2, 4))
    per_output = (conv.weight.detach().abs().flatten(2).sum(2) * x[0, :, 0, 0].abs()).sum(1)
    for got, wanted, channels in zip(have, want, ((0, 3, 5), (1, 2, 4)), strict=True):
        middle = got.shape[2] // 2
        difference = (got - wanted).detach()[0, :, middle, middle].abs()
        assert bool((difference <= (1.01**2 - 1) * per_output[list(channels)]).all())


# By hand.


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("alpha_in", "alpha_out"), [(0.5, 0.25), (0.0, 0.5), (0.5, 0.0), (1.0, 1.0), (0.0, 0.0)]
)
def test_by_hand(dims: int, scheme: Scheme, alpha_in: float, alpha_out: float) -> None:
    layer = OCTAVE[dims](
        8, 12, 3, stride=2, padding=1, bias=True, alpha_in=alpha_in, alpha_out=alpha_out, kernels=scheme
    )
    size = {1: (16,), 2: (16, 8), 3: (6, 16, 8)}[dims]
    low_in, low_out = tuple(range(8 - int(8 * alpha_in), 8)), tuple(range(12 - int(12 * alpha_out), 12))
    assert (layer.low_in, layer.low_out) == (low_in, low_out)
    have = layer(*parted(torch.randn(2, 8, *size), low_in))
    want = parted(CONV[dims](8, 12, 3, 2, 1)(torch.randn(2, 8, *size)), low_out)
    for got, wanted in zip(have, want, strict=True):
        assert (got is None) == (wanted is None)
        assert got is None or got.shape == wanted.shape


def test_by_hand_grouped_channels_are_low_in_every_group() -> None:
    layer = OctaveConv2d(8, 8, 3, padding=1, groups=2, alpha_in=0.5, alpha_out=0.25)
    assert layer.low_in == (2, 3, 6, 7)
    assert layer.low_out == (3, 7)
    assert layer.high_to_high.groups == layer.low_to_low.groups == 2


def test_by_hand_paths_are_plain_convolutions() -> None:
    layer = OctaveConv2d(8, 8, 3, padding=1, alpha_in=0.5, alpha_out=0.5)
    assert {type(getattr(layer, name)) for name in PATHS} == {nn.Conv2d}
    assert [(p.bias is None) for p in (layer.high_to_high, layer.low_to_low)] == [False, False]
    assert [(p.bias is None) for p in (layer.high_to_low, layer.low_to_high)] == [True, True]


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(PlanError, match="alpha"):
        OctaveConv2d(8, 8, 3, alpha_in=alpha)


def test_channels_that_do_not_exist_are_refused() -> None:
    with pytest.raises(PlanError, match="do not exist"):
        OctaveConv2d.from_conv(nn.Conv2d(8, 8, 3, groups=2), (8,), ())


# Groups with different numbers of low channels.


def test_equal_groups_stay_one_convolution() -> None:
    """Also where whole groups are low, so that some groups have nothing in a path."""
    conv = nn.Conv2d(12, 12, 3, padding=1, groups=4)
    for low_in, low_out in [
        ((2, 5, 8, 11), (0, 3, 6, 9)),
        (tuple(range(6)), tuple(range(6))),
        ((0, 1, 2, 6, 7, 8), (0, 1, 2, 6, 7, 8)),
        ((), (1, 2, 4, 5, 7, 8, 10, 11)),
    ]:
        made = OctaveConv2d.from_conv(conv, low_in, low_out)
        assert {type(m) for name in PATHS if (m := getattr(made, name)) is not None} == {nn.Conv2d}


def test_runs_of_unequal_groups() -> None:
    """One plain convolution for each run; the other paths of the same layer may still be one."""
    conv = nn.Conv2d(12, 8, 3, padding=1, groups=4)  # 3 inputs and 2 outputs a group
    made = OctaveConv2d.from_conv(conv, (0, 3, 6, 9), (5, 6, 7))
    high, low = made.high_to_high, made.low_to_low
    assert isinstance(high, UnevenGroups)
    assert isinstance(low, UnevenGroups)
    shapes = [(c.groups, c.in_channels, c.out_channels) for c in (*high.convs, *low.convs)]
    assert shapes == [(2, 4, 4), (1, 2, 1), (1, 1, 1), (1, 1, 2)]
    assert all(type(c) is nn.Conv2d for c in (*high.convs, *low.convs))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("low_out", [(4, 5, 6, 7), (0, 1, 2, 3, 5)])
def test_every_output_has_its_bias_once(scheme: Scheme, low_out: tuple[int, ...]) -> None:
    """Groups without a high input get a high output's bias from the low-to-high path, and the other way round."""
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=4)
    made = OctaveConv2d.from_conv(conv, (0, 1, 2, 6, 7), low_out, scheme)
    have = made(*parted(torch.zeros(1, 8, 6, 6), made.low_in))
    for got, wanted in zip(have, parted(conv(torch.zeros(1, 8, 6, 6)), low_out), strict=True):
        assert torch.equal(got, wanted)
    assert sum(p.numel() for p in made.parameters() if p.ndim == 1) == 8


def test_low_channels_scattered_over_many_groups_are_refused() -> None:
    """Every second group with a low channel: with 8 groups as many runs as there may be, with 9 one more."""
    for groups in (8, 9):
        conv = nn.Conv2d(2 * groups, 2 * groups, 3, groups=groups)
        low = tuple(range(0, 2 * groups, 4))
        assert is_scattered(conv, low, ()) == (groups == 9)
    with pytest.raises(PlanError, match="more than 8 runs of equal groups"):
        OctaveConv2d.from_conv(conv, low, ())


def split_of_groups(per: int, groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """One low channel in the last half of the groups; and in the second and the last quarter."""
    half, quarter = range(groups // 2, groups), groups // 4
    places = [*range(quarter, 2 * quarter), *range(3 * quarter, groups)]
    return tuple(g * per + per - 1 for g in half), tuple(g * per + per - 1 for g in places)


@pytest.mark.parametrize("per", [4, 8])
def test_macs_of_independent_extras(per: int) -> None:
    """Half of the groups with a low input, half with a low output, a quarter with both: the formula's figure."""
    groups = 8
    conv = nn.Conv2d(groups * per, groups * per, 3, padding=1, groups=groups)
    low_in, low_out = split_of_groups(per, groups)
    made = OctaveConv2d.from_conv(conv, low_in, low_out)
    x = torch.randn(1, groups * per, 8, 8)
    alpha = 0.5 / per
    share = macs(made, *parted(x, low_in)) / macs(conv, x)
    assert share == pytest.approx(1 - 3 / 4 * alpha * (2 - alpha), rel=1e-12)


# What it costs: table 1 of Chen et al. 2019.

PAPER_PERCENT = {0.125: 82, 0.25: 67, 0.5: 44, 0.75: 30, 0.875: 26, 1.0: 25}


@pytest.mark.parametrize(("alpha", "percent"), PAPER_PERCENT.items())
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_macs_of_a_layer(alpha: float, percent: int, kernel: int) -> None:
    """``1 - 3/4 alpha (2 - alpha)`` of the dense layer's, for any kernel size."""
    conv = nn.Conv2d(32, 64, kernel, padding=kernel // 2)
    layer = OctaveConv2d(32, 64, kernel, padding=kernel // 2, alpha_in=alpha, alpha_out=alpha)
    x = torch.randn(1, 32, 16, 12)
    share = macs(layer, *parted(x, layer.low_in)) / macs(conv, x)
    assert share == pytest.approx(1 - 3 / 4 * alpha * (2 - alpha), rel=1e-12)
    assert round(100 * share) == percent


@pytest.mark.parametrize("alpha", PAPER_PERCENT)
def test_macs_of_a_strided_layer(alpha: float) -> None:
    """At stride 2 the low input has the output's resolution: its path to the high output saves nothing."""
    conv = nn.Conv2d(32, 64, 3, 2, 1)
    layer = OctaveConv2d(32, 64, 3, 2, 1, alpha_in=alpha, alpha_out=alpha)
    x = torch.randn(1, 32, 16, 12)
    share = macs(layer, *parted(x, layer.low_in)) / macs(conv, x)
    assert share == pytest.approx((1 - alpha) + alpha / 4, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_macs_from_and_to_dense(alpha: float) -> None:
    """Dense to octave: only HH and HL. Octave to dense: only HH and LH."""
    x = torch.randn(1, 32, 16, 12)
    dense = macs(nn.Conv2d(32, 32, 3, padding=1), x)
    first = OctaveConv2d(32, 32, 3, padding=1, alpha_in=0, alpha_out=alpha)
    last = OctaveConv2d(32, 32, 3, padding=1, alpha_in=alpha, alpha_out=0)
    for layer in (first, last):
        assert macs(layer, *parted(x, layer.low_in)) == pytest.approx(dense * (1 - 3 / 4 * alpha), rel=1e-12)


# Odd sizes.


def touched(conv: Any, axis: int, n: int) -> tuple[set[int], set[int]]:
    """Outputs (high, low) along one axis that an odd end may change.

    A low branch of an odd length ``n`` stands for ``n + 1`` samples, the last one twice. An output is
    changed only if its window reads position ``n`` (which should be padding), and a low output if
    either of its two samples is, or if it is the last of an odd output (whose second sample is made up).
    """
    k, s, p, d = conv.kernel_size[axis], conv.stride[axis], conv.padding[axis], conv.dilation[axis]
    out = length(n, k, s, p, d)
    reads = {i for i in range(out + 1) if n % 2 and any(s * i - p + d * m == n for m in range(k))}
    low = {i // 2 for i in reads} | ({out // 2} if out % 2 else set())
    return {i for i in reads if i < out}, {j for j in low if j < (out + 1) // 2}


def untouched_part(x: Tensor, changed: list[set[int]]) -> Tensor:
    """``x`` without the changed places along each spatial axis."""
    for axis, places in enumerate(changed):
        kept = [i for i in range(x.shape[2 + axis]) if i not in places]
        x = x.index_select(2 + axis, torch.tensor(kept, dtype=torch.long))
    return x


@given(convolutions(even=False))
def test_odd_sizes_are_exact_in_the_interior(drawn: Any) -> None:
    """Only outputs that see the odd end differ, and by no more than their windows can hold.

    The bound: such an output differs by what made-up samples add to a sum of ``|w| |x|``, at most
    ``||w_o||_1 max |x|``; a low one also averages in a made-up output of that size: twice as much.
    """
    conv, x, low_in, low_out = drawn
    octave = OCTAVE[x.ndim - 2].from_conv(conv, low_in, low_out, "exact")
    alone = len(low_in) == x.shape[1] or len(low_out) == conv.out_channels
    have = unless_untellable(lambda: octave(*parted(x, low_in)), alone=alone)
    want = parted(conv(projected(x, low_in)), low_out)
    halves = range(max(0, x.ndim - 4), x.ndim - 2)
    axes = [touched(conv, a, x.shape[2 + a]) if a in halves else (set(), set()) for a in range(x.ndim - 2)]
    scale = float(conv(x).detach().abs().max())
    norms = conv.weight.detach().abs().flatten(1).sum(1) * float(projected(x, low_in).abs().max())
    channels = (high_of(conv.out_channels, low_out), list(low_out))
    for branch, (got, wanted) in enumerate(zip(have, want, strict=True)):
        assert (got is None) == (wanted is None)
        if got is None:
            continue
        assert got.shape == wanted.shape
        difference = (got - wanted).detach().abs()
        inner = untouched_part(difference, [places[branch] for places in axes])
        assert not inner.numel() or float(inner.max()) <= EXACT * scale
        worst = difference.transpose(0, 1).flatten(1).max(1).values
        assert bool((worst <= 2 * norms[channels[branch]] + EXACT).all())


@pytest.mark.parametrize("n", [5, 7, 9, 15])
def test_an_odd_end_of_a_3x3_reaches_one_row_and_column(n: int) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1).double()
    assert touched(conv, 0, n) == ({n - 1}, {n // 2})
    x = noise(1, 4, n, n)
    high, low = OctaveConv2d.from_conv(conv, (1, 2), (0, 3), "exact")(*parted(x, (1, 2)))
    want_high, want_low = parted(conv(projected(x, (1, 2))), (0, 3))
    assert_same(high[:, :, :-1, :-1], want_high[:, :, :-1, :-1])
    assert_same(low[:, :, :-1, :-1], want_low[:, :, :-1, :-1])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (1, 7)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 1), (1, 2, 0), (5, 1, 2)]
)
def test_small_maps(scheme: Scheme, size: tuple[int, int], kernel: int, stride: int, padding: int) -> None:
    """Down to one sample, which is its own mean: shapes are right, and a pointwise layer stays exact."""
    conv = nn.Conv2d(4, 6, kernel, stride, padding).double()
    x = noise(2, 4, *size)
    have = OctaveConv2d.from_conv(conv, (1, 3), (0, 1, 5), scheme)(*parted(x, (1, 3)))
    want = parted(conv(projected(x, (1, 3))), (0, 1, 5))
    for got, wanted in zip(have, want, strict=True):
        assert got.shape == wanted.shape
        if kernel == stride == 1:
            assert_same(got, wanted)


# An ordinary module.


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_export_compile_and_deepcopy(scheme: Scheme, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, 2, 1, groups=groups)
    layer = OctaveConv2d.from_conv(conv, (1, 4, 6), (0, 3, 7), scheme)
    inputs = parted(torch.randn(2, 8, 16, 16), (1, 4, 6))
    wanted = layer(*inputs)
    exported = torch.export.export(layer, inputs).module()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for other in (copy.deepcopy(layer), exported, compiled):
        for got, want in zip(other(*inputs), wanted, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_state_dict_and_gradients(scheme: Scheme, groups: int) -> None:
    """With 4 groups: none, one or both of the two inputs of a group are low."""
    made = (nn.Conv2d(8, 8, 3, padding=1, groups=groups) for _ in range(2))
    layer, other = (OctaveConv2d.from_conv(conv, (1, 2, 3), (3, 4, 6, 7), scheme) for conv in made)
    other.load_state_dict(layer.state_dict())
    inputs = parted(torch.randn(2, 8, 8, 8), layer.low_in)
    high, low = layer(*inputs)
    assert all(torch.equal(a, b) for a, b in zip((high, low), other(*inputs), strict=True))
    (high.sum() + low.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in layer.parameters())


def test_frozen_weights_stay_frozen_and_training_mode_is_kept() -> None:
    conv = nn.Conv2d(8, 8, 3)
    conv.weight.requires_grad_(False)
    conv.eval()
    made = OctaveConv2d.from_conv(conv, (1,), (2,))
    assert not made.training
    assert not any(p.requires_grad for p in made.parameters() if p.ndim > 1)


def test_the_oracle_agrees_with_the_definition() -> None:
    """``P U = 1`` and ``Pi = U P`` is a projection."""
    x = noise(2, 3, 6, 4)
    assert torch.equal(P(U(x)), x)
    once = projected(x, (0, 2))
    assert_same(projected(once, (0, 2)), once, 1e-15)
    assert torch.equal(once[:, 1], x[:, 1])
