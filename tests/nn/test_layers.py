"""The layers around octave convolutions: norms, split and merge, pooling, PReLU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.errors import PlanError
from octify.nn import MergeOctave, OctaveBatchNorm2d, OctaveChannelwise, SplitOctave
from octify.nn.functional import dense_size, low_size, pool, position_mean, project, upsample
from octify.nn.pool import OctaveAvgPool, OctaveMaxPool
from tests.oracle import P, U, assert_same, noise, parted, projected, randomised

MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
SIZES = st.sampled_from([(6,), (7,), (1,), (4, 6), (5, 6), (5, 7), (1, 4), (1, 1), (3, 4, 6), (2, 5, 7)])


@st.composite
def octave_values(draw: st.DrawFn) -> tuple[Tensor, tuple[int, ...]]:
    """A map of 1, 2 or 3 dimensions and any of its channels."""
    channels = draw(st.integers(1, 6))
    size = draw(SIZES)
    low = draw(st.sets(st.integers(0, channels - 1)))
    return noise(2, channels, *size, seed=draw(st.integers(0, 99))), tuple(sorted(low))


def size_is_certain(size: tuple[int, ...]) -> bool:
    """Whether a low branch alone tells the size: twice its own, or 1 for 1."""
    return all(n == 1 or (n % 2 == 0 and n > 2) for n in size[-2:])


# Pooling, upsampling, split and merge.


@given(octave_values())
def test_pool_upsample_and_project_are_the_operators(drawn: tuple[Tensor, tuple[int, ...]]) -> None:
    x, _ = drawn
    size = tuple(x.shape[2:])
    assert_same(pool(x), P(x), 1e-15)
    assert pool(x).shape[2:] == low_size(size)
    assert torch.equal(upsample(P(x), size), U(P(x), size))
    assert_same(project(x), U(P(x), size), 1e-15)


@given(octave_values())
def test_merge_after_split_is_the_projection(drawn: tuple[Tensor, tuple[int, ...]]) -> None:
    x, low = drawn
    assume(len(low) < x.shape[1] or size_is_certain(tuple(x.shape[2:])))
    high, stored = SplitOctave(x.shape[1], low)(x)
    for got, wanted in zip((high, stored), parted(x, low), strict=True):
        assert_same(got, wanted, 1e-15)
    assert_same(MergeOctave(x.shape[1], low)(high, stored), projected(x, low), 1e-15)


@given(octave_values())
def test_split_after_merge_changes_nothing(drawn: tuple[Tensor, tuple[int, ...]]) -> None:
    """``P U = 1``: what is stored comes back bit for bit on even sizes, and to rounding elsewhere."""
    x, low = drawn
    assume(len(low) < x.shape[1] or size_is_certain(tuple(x.shape[2:])))
    stored = parted(x, low)
    again = SplitOctave(x.shape[1], low)(MergeOctave(x.shape[1], low)(*stored))
    for got, wanted in zip(again, stored, strict=True):
        assert_same(got, wanted, 1e-15)


def test_split_and_merge_by_alpha_take_the_last_channels() -> None:
    assert SplitOctave(10, alpha=0.25).low_channels == (8, 9)
    assert MergeOctave(10, alpha=0.25).low_channels == (8, 9)
    with pytest.raises(PlanError, match="alpha"):
        SplitOctave(10, alpha=2)
    with pytest.raises(PlanError, match="do not exist"):
        MergeOctave(4, (4,))


def test_what_is_merged_or_split_has_no_state() -> None:
    """Indices are part of the plan, not of the weights."""
    assert not SplitOctave(4, (0, 2)).state_dict()
    assert not MergeOctave(4, (0, 2)).state_dict()


@given(octave_values())
def test_mean_over_positions_needs_no_upsampling(drawn: tuple[Tensor, tuple[int, ...]]) -> None:
    x, low = drawn
    assume(low)
    assume(len(low) < x.shape[1] or size_is_certain(tuple(x.shape[2:])))
    high, stored = parted(x, low)
    wanted = projected(x, low)[:, list(low)].mean(tuple(range(2, x.ndim)), keepdim=True)
    assert_same(position_mean(stored, dense_size(high, stored)), wanted, 1e-14)


# Norms.


@given(st.integers(1, 8), st.sets(st.integers(0, 7)), st.integers(0, 99), st.sampled_from([True, False]))
def test_batchnorm_acts_on_each_branch(channels: int, chosen: set[int], seed: int, affine: bool) -> None:
    """An affine map per channel commutes with ``P`` and ``U``."""
    low = tuple(sorted(c for c in chosen if c < channels))
    norm = randomised(nn.BatchNorm2d(channels, affine=affine), seed)
    made = OctaveBatchNorm2d.from_module(norm, channels, low)
    x = noise(2, channels, 4, 6, seed=seed)
    for got, wanted in zip(made(*parted(x, low)), parted(norm(projected(x, low)), low), strict=True):
        assert_same(got, wanted)
    kept = sum(p.numel() for p in made.parameters())
    assert kept == sum(p.numel() for p in norm.parameters())


def test_batchnorm_in_training_keeps_statistics_of_each_branch() -> None:
    norm = nn.BatchNorm2d(4).double()
    made = OctaveBatchNorm2d.from_module(norm, 4, (1, 3))
    assert made.training
    high, low = parted(noise(8, 4, 6, 6), (1, 3))
    made(high, low)
    assert_same(made.high.running_mean, 0.1 * high.mean((0, 2, 3)), 1e-12)
    assert_same(made.low.running_mean, 0.1 * low.mean((0, 2, 3)), 1e-12)
    assert torch.equal(norm.running_mean, torch.zeros(4).double())


def test_batchnorm_by_hand() -> None:
    made = OctaveBatchNorm2d(10, alpha=0.25)
    assert (made.high.num_features, made.low.num_features) == (8, 2)
    assert OctaveBatchNorm2d(4, alpha=0).low is None
    assert OctaveBatchNorm2d(4, alpha=1).high is None


@given(st.integers(1, 6), st.sets(st.integers(0, 5)))
def test_prelu_with_a_slope_per_channel(channels: int, chosen: set[int]) -> None:
    low = tuple(sorted(c for c in chosen if c < channels))
    prelu = nn.PReLU(channels).double()
    with torch.no_grad():
        prelu.weight.copy_(noise(channels, seed=1))
    made = OctaveChannelwise.from_module(prelu, channels, low)
    x = noise(2, channels, 4, 6)
    for got, wanted in zip(made(*parted(x, low)), parted(prelu(projected(x, low)), low), strict=True):
        assert_same(got, wanted)
    for branch in (made.high, made.low):
        assert branch is None or branch.num_parameters == len(branch.weight)


# Pooling.


@st.composite
def poolings(draw: st.DrawFn, dilated: bool) -> tuple[int, dict[str, Any], Tensor]:
    """Dimensions, settings and an even input of a pooling layer."""
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(dims))
    settings: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": draw(st.none() | st.just(kernel) | st.tuples(*[st.integers(1, 4)] * dims)),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    if dilated:
        settings["dilation"] = draw(st.tuples(*[st.integers(1, 3)] * dims))
    size = tuple(2 * draw(st.integers(1, 7)) for _ in range(dims))
    for n, k, p, d in zip(size, kernel, settings["padding"], settings.get("dilation", kernel), strict=True):
        assume(n + 2 * p >= d * (k - 1) + 1 if dilated else n >= k)
    return dims, settings, noise(2, 4, *size, seed=draw(st.integers(0, 99)))


@given(poolings(dilated=True))
def test_exact_max_pooling(drawn: tuple[int, dict[str, Any], Tensor]) -> None:
    """High: max pooling. Low: ``P`` of max pooling ``U u``, also where the output is odd."""
    dims, settings, x = drawn
    low = (0, 2)
    plain = MAX[dims](projected(x, low), **settings)
    assume(bool(plain.isfinite().all()))  # a window of padding alone
    wanted = parted(plain, low)
    for got, want in zip(
        OctaveMaxPool(dims, **settings, scheme="exact")(*parted(x, low)), wanted, strict=True
    ):
        assert_same(got, want, 1e-14)


@given(poolings(dilated=False), st.booleans(), st.sampled_from([None, 3]))
def test_exact_average_pooling(
    drawn: tuple[int, dict[str, Any], Tensor], count_include_pad: bool, divisor: int | None
) -> None:
    dims, settings, x = drawn
    assume(dims > 1 or divisor is None)
    low = (1, 3)
    made = OctaveAvgPool(
        dims, **settings, count_include_pad=count_include_pad, divisor_override=divisor, scheme="exact"
    )
    stride = settings.pop("stride") or settings["kernel_size"]
    more = {} if divisor is None else {"divisor_override": divisor}
    plain = AVG[dims](
        projected(x, low), stride=stride, count_include_pad=count_include_pad, **settings, **more
    )
    for got, want in zip(made(*parted(x, low)), parted(plain, low), strict=True):
        assert_same(got, want, 1e-13)


@pytest.mark.parametrize("size", [(5, 7), (7, 8), (15, 9)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1), (5, 1, 2)]
)
def test_exact_pooling_of_odd_sizes(size: tuple[int, int], kernel: int, stride: int, padding: int) -> None:
    """A made-up last sample repeats the last one, which its window holds anyway: the maximum is the same."""
    x = noise(2, 4, *size)
    for ceil in (False, True):
        settings = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
        for made, plain in ((OctaveMaxPool, F.max_pool2d), (OctaveAvgPool, F.avg_pool2d)):
            wanted = parted(plain(projected(x, (0, 3)), **settings), (0, 3))
            have = made(2, **settings, scheme="exact")(*parted(x, (0, 3)))
            for got, want in zip(have, wanted, strict=True):
                assert_same(got, want, 1e-13)


@given(poolings(dilated=False), st.booleans())
def test_paper_pooling_keeps_shapes(drawn: tuple[int, dict[str, Any], Tensor], maximum: bool) -> None:
    """Every branch is pooled by the same layer (Chen et al.'s code); the low one keeps its half resolution."""
    dims, settings, x = drawn
    kind = OctaveMaxPool if maximum else OctaveAvgPool
    have = kind(dims, **settings, scheme="paper")(*parted(x, (0, 2)))
    plain = (MAX if maximum else AVG)[dims](x, **{k: v for k, v in settings.items() if v is not None})
    for got, want in zip(have, parted(plain, (0, 2)), strict=True):
        assert got.shape == want.shape
        assert bool(got.isfinite().all())


@pytest.mark.parametrize("n", [8, 12])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
def test_paper_pooling_is_the_layer_itself_on_each_branch(
    n: int, kernel: int, stride: int, padding: int
) -> None:
    high, low = parted(noise(2, 4, n, n), (0, 2))
    made = OctaveMaxPool(2, kernel, stride, padding, scheme="paper")
    y_high, y_low = made(high, low)
    assert torch.equal(y_high, F.max_pool2d(high, kernel, stride, padding))
    assert torch.equal(y_low, F.max_pool2d(low, kernel, stride, padding))


# Ordinary modules.

LAYERS: dict[str, tuple[nn.Module, bool]] = {
    "split": (SplitOctave(8, (1, 4, 6)), False),
    "merge": (MergeOctave(8, (1, 4, 6)), True),
    "norm": (OctaveBatchNorm2d.from_module(nn.BatchNorm2d(8).eval(), 8, (1, 4, 6)), True),
    "max": (OctaveMaxPool(2, 3, 2, 1, scheme="exact"), True),
    "max, paper": (OctaveMaxPool(2, 3, 2, 1, scheme="paper"), True),
    "average": (OctaveAvgPool(2, 3, 1, 1, scheme="exact"), True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_export_compile_and_deepcopy(name: str) -> None:
    layer, octave = LAYERS[name]
    x = torch.randn(2, 8, 16, 16)
    inputs = parted(x, (1, 4, 6)) if octave else (x,)
    wanted = layer(*inputs)
    exported = torch.export.export(layer, inputs).module()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for other in (copy.deepcopy(layer), exported, compiled):
        have = other(*inputs)
        pairs = [(have, wanted)] if isinstance(wanted, Tensor) else zip(have, wanted, strict=True)
        assert all(torch.equal(got, want) for got, want in pairs)
