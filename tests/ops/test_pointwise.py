"""Pointwise operations: every one on octave values, against the projected reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from tests.between import CHANNELS, Between, assert_exact, assert_refused
from tests.oracle import noise

NEEDS_ARGUMENTS = {nn.Threshold: (0.1, 0.2), nn.PReLU: (CHANNELS,), nn.GLU: (1,)}
MIXES_POSITIONS_OR_CHANNELS = {nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax}
ACTIVATIONS = [
    kind
    for _, kind in inspect.getmembers(nn.modules.activation, inspect.isclass)
    if kind.__module__ == "torch.nn.modules.activation" and kind not in MIXES_POSITIONS_OR_CHANNELS
]


@pytest.mark.parametrize("kind", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_every_activation_of_torch(kind: type[nn.Module]) -> None:
    out = CHANNELS // 2 if kind is nn.GLU else CHANNELS
    assert_exact(kind(*NEEDS_ARGUMENTS.get(kind, ())), out, alphas=(0.5,))


def test_every_activation_of_timm() -> None:
    activations = pytest.importorskip("timm.layers.activations")
    kinds = [kind for _, kind in inspect.getmembers(activations, inspect.isclass)]
    kinds = [kind for kind in kinds if kind.__module__ == "timm.layers.activations"]
    assert len(kinds) >= 10
    for kind in kinds:
        assert_exact(kind(), alphas=(0.5,))


class Slopes(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(count))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)


class StarReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.relu(x) ** 2 + self.bias


class PerChannel(nn.Module):
    """A scale and a shift for each channel, in every shape that broadcasts to (N, C, H, W)."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        shape = (1,) * (rank - 3) + (CHANNELS, 1, 1)
        self.gamma, self.beta = nn.Parameter(torch.rand(shape)), nn.Parameter(torch.rand(shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, x, self.gamma) / (1 + self.gamma)


class Position(nn.Module):
    """A learnt value for each position: (H, W), (C, H, W), or one for each column (W,)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.rand(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.value) * self.value


@pytest.mark.parametrize(
    "operation",
    [
        Slopes(1),
        Slopes(CHANNELS),
        StarReLU(),
        PerChannel(3),
        PerChannel(4),
        Position(8, 12),
        Position(CHANNELS, 8, 12),
        Position(1, CHANNELS, 8, 12),
        Position(12),
        Position(8, 1),
    ],
    ids=repr,
)
def test_learnt_operands(operation: nn.Module) -> None:
    assert_exact(operation)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "power": lambda x: x.abs() ** 1.5 + x.pow(2) + torch.pow(2.0, x) + 2**x,
    "own power": lambda x: x.sigmoid() ** x,
    "negative": lambda x: -x + torch.neg(x) + x.neg(),
    "quotients": lambda x: 1 / (2 + x.square()) + x / x.exp() + torch.div(x, 3),
    "floor": lambda x: torch.div(x, 0.5, rounding_mode="floor"),
    "extremes": lambda x: torch.maximum(x, x.square()) - torch.min(x, -x) + x.max(x * 2) + x.min(x * 2),
    "three": lambda x: torch.addcmul(x, x, x.sigmoid(), value=0.5) + torch.lerp(x, x.abs(), 0.3),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.exp()),
    "in place": lambda x: (x * 1).mul_(2).add_(x).sub_(1).div_(3).clamp_(-1).sqrt().nan_to_num(0.5),
    "bounds": lambda x: (
        x.clamp(min=-1).clamp_max(2) + F.hardtanh(x) + F.relu6(x + 3) / 6 + F.threshold(x, 0.1, 0)
    ),
    "types": lambda x: x.to(torch.float64).type_as(x).contiguous(),
    "swish": lambda x: x.mul_(x.sigmoid()),
    "mish": lambda x: x.mul(F.softplus(x).tanh()),
    "dropout": lambda x: F.dropout(F.dropout2d(x, 0.3, False), 0.3, False),
    "reversed": lambda x: torch.rsub(x, 2) + (3 - x),
    "scaled sum": lambda x: torch.add(x, x, alpha=0.3) - torch.sub(x, x.abs(), alpha=2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    assert_exact(FUNCTIONS[name], alphas=(0.5,))


class WithStem(nn.Module):
    """``operation(octave map, dense map)``: the stem's output is dense because its convolution is left."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.body = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.operation = operation
        self.last = nn.Conv2d(CHANNELS, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        return self.last(self.operation(self.body(stem), stem)).mean((2, 3))


DENSE_OPERANDS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "sum": (lambda x, d: x + d, True),
    "product": (lambda x, d: d * x, True),
    "quotient": (lambda x, d: d / (1 + x.square()), True),
    "divisor": (lambda x, d: x / (1 + d.square()), False),
    "rounded": (lambda x, d: torch.div(d, 1 + x.square(), rounding_mode="floor"), False),
    "power": (lambda x, d: x.abs() ** d, False),
    "maximum": (lambda x, d: torch.maximum(x, d), False),
    "addcmul": (lambda x, d: torch.addcmul(d, x, x), True),
    "addcmul of it": (lambda x, d: torch.addcmul(x, x, d), False),
    "lerp": (lambda x, d: torch.lerp(x, d, 0.3), True),
    "lerp by it": (lambda x, d: torch.lerp(x, x.abs(), d.sigmoid()), False),
}


@pytest.mark.parametrize("name", DENSE_OPERANDS)
def test_dense_operands(name: str) -> None:
    """A map that is not projected may stand only where the operation is affine in it."""
    operation, splits = DENSE_OPERANDS[name]
    net, x = WithStem(operation).double().eval(), noise(2, 3, 8, 8)
    result = octify.convert(net, x, rules="everywhere", kernels="exact", exclude=("stem",))
    assert result.plan.conv("body").low_out
    assert result.report.totals.splits == splits
    assert (result.report.totals.merges == 0) == splits
    with torch.no_grad():
        want = octify.reference(net, result.plan, x)(x)
        assert (result.model(x) - want).abs().max() <= 1e-10 * want.abs().max()


def test_a_clamp_by_a_map_is_refused() -> None:
    assert_refused(lambda x: torch.clamp(x, min=x.sin()), "position")


def test_softmax_over_channels_is_refused() -> None:
    assert_refused(lambda x: x.softmax(1), "both resolutions")
    assert_refused(nn.Softmax2d(), "both resolutions")


def test_glu_over_positions_is_refused() -> None:
    assert_refused(lambda x: F.glu(x, -1), "another dimension")


def test_a_glu_of_a_dense_and_an_octave_half_is_right() -> None:
    """The two halves come from convolutions of which one is left alone."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value, self.gate = nn.Conv2d(3, CHANNELS, 3), nn.Conv2d(3, CHANNELS, 3)
            self.last = nn.Conv2d(CHANNELS, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.glu(torch.cat([self.value(x), self.gate(x)], 1), 1))

    net, x = Halves().double().eval(), noise(1, 3, 10, 10)
    result = octify.convert(net, x, rules="everywhere", kernels="exact", exclude=("gate",))
    with torch.no_grad():
        want = octify.reference(net, result.plan, x)(x)
        assert (result.model(x) - want).abs().max() <= 1e-10 * want.abs().max()


def test_between_is_converted_at_all() -> None:
    """The helper would fail an operation that merges: here is one."""
    with pytest.raises(AssertionError, match="merge"):
        assert_exact(lambda x: x.cumsum(2))
    assert isinstance(Between(nn.ReLU()), nn.Module)
