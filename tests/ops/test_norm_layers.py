"""Norms over octave values: every layer equals the original's, projected, whatever channels are low.

The definition is applied to the layer's own code: ``Pi`` on the low channels of the input, the original layer,
then ``P`` on the low channels of the output. All of it must hold at every size, even and odd.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import timm.layers as T
import timm.layers.evo_norm as evo
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from timm.layers.grn import GlobalResponseNorm
from timm.layers.norm import LayerNormExp2d
from timm.layers.split_batchnorm import SplitBatchNorm2d
from timm.models.metaformer import GroupNorm1NoBias, LayerNorm2dNoBias
from torch import Tensor, nn

from octify.nn.evo_norm import OctaveEvoNorm
from octify.nn.functional import position_mean
from octify.nn.group_norm import OctaveGroupNorm
from octify.nn.layer_norm import (
    OctaveLayerNorm,
    l1_normalise,
    l2_normalise,
    layer_normalise,
    rms_normalise,
    simple_normalise,
)
from octify.nn.norm import OctaveBatchNorm2d, OctavePositionNorm
from octify.nn.response_norm import OctaveGlobalResponseNorm, position_norm
from tests.oracle import EXACT, P, U, assert_same, error, noise, parted, projected

C = 12
few = settings(max_examples=max(8, settings.default.max_examples // 3))  # of each of many layers
Make = Callable[[nn.Module, Sequence[int]], nn.Module]
SIZES = [(4, 6), (6, 6), (5, 7), (4, 5), (1, 1), (1, 6), (2, 2)]


def group(module: nn.Module, low: Sequence[int]) -> nn.Module:
    return OctaveGroupNorm(module, low)


def positions(module: nn.Module, low: Sequence[int]) -> nn.Module:
    return OctavePositionNorm.from_module(module, C, low)


def channelwise(module: nn.Module, low: Sequence[int]) -> nn.Module:
    return OctaveBatchNorm2d.from_module(module, C, low)


def layer(normalise: Callable[..., object] = layer_normalise) -> Make:
    return lambda module, low: OctaveLayerNorm(module, low, C, normalise)


def evo_s(statistic: str) -> Make:
    return lambda module, low: OctaveEvoNorm(module, low, statistic)


def per_channel_prelu() -> nn.Module:
    return T.GroupNormAct(C, 4, act_layer=nn.PReLU, act_kwargs={"num_parameters": C})


CASES: dict[str, tuple[Callable[[], nn.Module], Make]] = {
    "GroupNorm, 1 group": (lambda: nn.GroupNorm(1, C), group),
    "GroupNorm, 3 groups": (lambda: nn.GroupNorm(3, C), group),
    "GroupNorm, every channel": (lambda: nn.GroupNorm(C, C), group),
    "GroupNorm, no weights": (lambda: nn.GroupNorm(4, C, affine=False), group),
    "timm GroupNorm": (lambda: T.GroupNorm(C, 4), group),
    "GroupNorm1": (lambda: T.GroupNorm1(C), group),
    "GroupNorm1NoBias": (lambda: GroupNorm1NoBias(C), group),
    "GroupNormAct": (lambda: T.GroupNormAct(C, 4), group),
    "GroupNormAct, PReLU": (per_channel_prelu, group),
    "GroupNorm1Act": (lambda: T.GroupNorm1Act(C, act_layer=nn.GELU, inplace=False), group),
    "LayerNorm2d": (lambda: T.LayerNorm2d(C), layer()),
    "LayerNorm2dFp32": (lambda: T.LayerNorm2dFp32(C), layer()),
    "LayerNorm2dNoBias": (lambda: LayerNorm2dNoBias(C), layer()),
    "LayerNormExp2d": (lambda: LayerNormExp2d(C), layer()),
    "LayerNormAct2d": (lambda: T.LayerNormAct2d(C), layer()),
    "RmsNorm2d": (lambda: T.RmsNorm2d(C), layer(rms_normalise)),
    "RmsNormAct2d": (lambda: T.RmsNormAct2d(C), layer(rms_normalise)),
    "SimpleNorm2d": (lambda: T.SimpleNorm2d(C), layer(simple_normalise)),
    "GlobalResponseNorm": (
        lambda: GlobalResponseNorm(C, channels_last=False),
        lambda module, low: OctaveGlobalResponseNorm(module, low),
    ),
    "EvoNorm-S0": (lambda: evo.EvoNorm2dS0(C, 4), evo_s("deviation")),
    "EvoNorm-S0a": (lambda: evo.EvoNorm2dS0a(C, 3), evo_s("deviation")),
    "EvoNorm-S1": (lambda: evo.EvoNorm2dS1(C, 4), evo_s("deviation")),
    "EvoNorm-S1a, no activation": (lambda: evo.EvoNorm2dS1a(C, 4, apply_act=False), evo_s("deviation")),
    "EvoNorm-S2": (lambda: evo.EvoNorm2dS2(C, 4), evo_s("root mean square")),
    "EvoNorm-S2a": (lambda: evo.EvoNorm2dS2a(C, 1), evo_s("root mean square")),
    "EvoNorm-B0": (lambda: evo.EvoNorm2dB0(C), positions),
    "EvoNorm-B1": (lambda: evo.EvoNorm2dB1(C), positions),
    "EvoNorm-B2": (lambda: evo.EvoNorm2dB2(C), positions),
    "FilterResponseNormTlu2d": (lambda: FilterResponseNormTlu2d(C), positions),
    "FilterResponseNormAct2d": (lambda: FilterResponseNormAct2d(C), positions),
    "SplitBatchNorm2d": (lambda: SplitBatchNorm2d(C), channelwise),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(C), positions),
    "InstanceNorm2d, with all": (
        lambda: nn.InstanceNorm2d(C, affine=True, track_running_stats=True),
        positions,
    ),
}


@pytest.fixture(autouse=True)
def no_rounding_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's layers compute statistics in float32 whatever they are given; here in what they are given."""
    to_float32 = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float32(x))


def drawn(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The layer in float64 and eval mode with random parameters and statistics."""
    module = build().double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                random = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(random.abs() + 0.5 if name.endswith("var") else random)
    return module


def certain(size: tuple[int, ...]) -> bool:
    """Whether a low branch alone tells the size."""
    return all(n == 1 or (n % 2 == 0 and n > 2) for n in size[-2:])


def check(module: nn.Module, make: Make, x: Tensor, low: Sequence[int], tolerance: float = EXACT) -> None:
    made = make(copy.deepcopy(module), low)
    with torch.no_grad():
        wanted = parted(module(projected(x, low)), low)
        got = made(*parted(x, low))
    for branch, expected in zip(got, wanted, strict=True):
        assert_same(branch, expected, tolerance)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", CASES)
@few
@given(st.data())
def test_equals_the_projected_original(name: str, data: st.DataObject) -> None:
    build, make = CASES[name]
    low = sorted(data.draw(st.sets(st.integers(0, C - 1), min_size=1), label="low"))
    size = data.draw(st.sampled_from(SIZES), label="size")
    seed = data.draw(st.integers(0, 99), label="seed")
    assume(len(low) < C or certain(size))
    module = drawn(build, seed)
    one_position = isinstance(module, nn.InstanceNorm2d) and not module.track_running_stats and size == (1, 1)
    assume(not one_position)  # of which it takes no statistics
    x = noise(2, C, *size, seed=seed) * 2 + noise(C, 1, 1, seed=seed + 1)
    check(module, make, x, low)


@pytest.mark.parametrize("shape", [(6,), (7,), (3, 4, 6), (3, 5, 6), (2, 5, 7)])
def test_groups_over_sequences_and_videos(shape: tuple[int, ...]) -> None:
    low = (1, 2, 3, 7, 10)
    x = noise(2, C, *shape)
    check(drawn(lambda: nn.GroupNorm(4, C)), group, x, low)
    instance = (nn.InstanceNorm1d if len(shape) == 1 else nn.InstanceNorm3d)(C, affine=True)
    check(drawn(lambda: instance), positions, x, low)


@given(st.integers(1, 5), st.sampled_from([(5,), (6,), (1,), (5, 4), (5, 7), (4, 4), (1, 3), (3, 5, 7)]))
def test_statistics_of_a_low_branch_are_those_of_the_map(channels: int, size: tuple[int, ...]) -> None:
    x = P(noise(2, channels, *size))
    dims = tuple(range(2, x.ndim))
    whole = U(x, size)
    assert_same(position_mean(x, size), whole.mean(dims, keepdim=True), 1e-14)
    assert_same(position_norm(x, size), whole.square().sum(dims, keepdim=True).sqrt(), 1e-14)


@pytest.mark.parametrize(
    ("normalise", "wanted"),
    [
        (l2_normalise, lambda x: nn.functional.normalize(x, dim=1)),
        (l1_normalise, lambda x: nn.functional.normalize(x, p=1.0, dim=1)),
    ],
)
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_lengths_over_channels(
    normalise: Callable[[Tensor | None, Tensor | None, float], tuple[Tensor | None, Tensor | None]],
    wanted: Callable[[Tensor], Tensor],
    size: tuple[int, ...],
) -> None:
    low = (0, 3, 4)
    x = noise(2, 7, *size)
    got = normalise(*parted(x, low), 1e-12)
    for branch, expected in zip(got, parted(wanted(projected(x, low)), low), strict=True):
        assert_same(branch, expected)


def test_gradients_where_a_length_is_0_are_finite() -> None:
    empty = torch.zeros(1, 2, 4, 4, requires_grad=True)
    position_norm(empty, (8, 8)).sum().backward()
    assert empty.grad is not None and bool(empty.grad.isfinite().all())
    high, low = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)
    y_high, y_low = l2_normalise(high, low, 1e-12)
    assert y_high is not None and y_low is not None
    (y_high.sum() + y_low.sum()).backward()
    assert high.grad is not None and low.grad is not None
    assert bool(high.grad.isfinite().all()) and bool(low.grad.isfinite().all())


@pytest.mark.parametrize(
    "name", ["GroupNorm, 3 groups", "LayerNorm2d", "SimpleNorm2d", "EvoNorm-S1a, no activation"]
)
@pytest.mark.parametrize("offset", [0.0, 100.0, 3000.0])
def test_a_mean_far_above_the_deviation_costs_no_precision(name: str, offset: float) -> None:
    """In float32 the octave layer is about as far from the truth as the original is from its own."""
    build, make = CASES[name]
    low = (0, 4, 5, 9)
    module = drawn(build)
    x = (noise(4, C, 16, 16) + offset).float()
    branches = parted(x, low)
    high, small = (x[:, [c for c in range(C) if c not in low]], branches[1])
    whole = torch.empty_like(x)
    whole[:, [c for c in range(C) if c not in low]] = high
    whole[:, list(low)] = U(small)
    with torch.no_grad():
        truth = module(whole.double())
        own = error(copy.deepcopy(module).float()(whole).double(), truth)
        got = make(copy.deepcopy(module).float(), low)(high, small)
        wanted = parted(truth, low)
    worst = max(error(g.double(), w) for g, w in zip(got, wanted, strict=True))
    # Rounding an input of size `offset` alone moves its deviation by eps * offset.
    floor = 4 * torch.finfo(torch.float32).eps * max(1.0, offset)
    assert worst <= max(8 * own, floor)


def test_half_precision_takes_its_statistics_in_float32() -> None:
    """Squares of 300 are beyond float16."""
    module = nn.GroupNorm(3, C).eval()
    low = (1, 5, 6)
    x = noise(2, C, 8, 8).float() * 300
    high, small = parted(x, low)
    wanted = OctaveGroupNorm(module, low)(high, small)
    got = OctaveGroupNorm(copy.deepcopy(module).half(), low)(high.half(), small.half())
    for branch, expected in zip(got, wanted, strict=True):
        assert branch.dtype == torch.float16
        assert error(branch.float(), expected) < 4 * torch.finfo(torch.float16).eps


@pytest.mark.parametrize("name", CASES)
def test_trains_and_copies(name: str) -> None:
    """Every parameter of both branches gets a gradient; a deep copy is another module with the same state."""
    build, make = CASES[name]
    made = make(drawn(build).train(), (0, 3, 4, 8))
    high, low = parted(noise(2, C, 6, 6), (0, 3, 4, 8))
    y_high, y_low = made(high, low)
    assert made.training
    if not list(made.parameters()):
        return
    (y_high.square().sum() + y_low.square().sum()).backward()
    for parameter in made.parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any())
    twin = copy.deepcopy(made)
    assert twin.state_dict().keys() == made.state_dict().keys()
    assert all(key.split(".")[0] in ("high", "low") for key in made.state_dict())
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in made.parameters()}


def test_evonorm_b_keeps_statistics_of_each_branch() -> None:
    made = positions(evo.EvoNorm2dB0(C).double(), (0, 3))
    high, low = parted(noise(8, C, 6, 6), (0, 3))
    made(high, low)
    n = low.numel() / low.shape[1]
    variance = low.var((0, 2, 3), unbiased=False)
    assert_same(made.low.running_var, 0.9 + 0.1 * variance * n / (n - 1), 1e-12)
