"""Reductions of octave values over positions and channels, and the gates made of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.layout.roles import is_reduced
from octify.nn.reduction import Reduction, channel_reduced, low_reduced
from tests.between import CHANNELS, assert_exact, assert_refused, converted
from tests.oracle import EXACT, P, U, assert_same, noise, parted, projected, randomised

KINDS: list[Reduction] = ["sum", "mean", "amax", "amin", "var", "std", "norm"]
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=3)


def dense(x: Tensor, kind: Reduction, dims: tuple[int, ...], correction: float) -> Tensor:
    """The reduction as PyTorch computes it."""
    if kind in ("var", "std"):
        return getattr(torch, kind)(x, dims, correction=correction, keepdim=True)
    if kind == "norm":
        return torch.linalg.vector_norm(x, dim=dims, keepdim=True)
    return getattr(torch, kind)(x, dims, keepdim=True)


@given(SIZES, st.sampled_from(KINDS), st.data())
def test_over_positions(size: list[int], kind: Reduction, data: st.DataObject) -> None:
    """At odd sizes too; along axes that are kept, the result is the low branch of the dense one."""
    axes = data.draw(st.sets(st.integers(2, len(size) + 1), min_size=1))
    dims = tuple(sorted(axes))
    count = int(torch.tensor([size[d - 2] for d in dims]).prod())
    correction = data.draw(st.sampled_from([0.0, 1.0] if count > 1 else [0.0]))
    low = P(noise(2, 3, *size))
    want = P(dense(U(low, size), kind, dims, correction))
    assert_same(low_reduced(low, noise(2, 1, *size), kind, dims, correction), want, EXACT)


@given(SIZES, st.sampled_from(KINDS), st.sampled_from([(5, (1, 3)), (4, (0, 1, 2, 3)), (3, ())]), st.data())
def test_over_channels(
    size: list[int], kind: Reduction, channels: tuple[int, tuple[int, ...]], data: st.DataObject
) -> None:
    count, low = channels
    if len(low) == count:
        size = [2 * n + 2 if len(size) < 3 or i else n for i, n in enumerate(size)]
    x = projected(noise(2, count, *size), low)
    correction = data.draw(st.sampled_from([0.0, 1.0]))
    assert_same(channel_reduced(*parted(x, low), kind, correction), dense(x, kind, (1,), correction), EXACT)


OVER_CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(1, keepdim=True),
    "mean without keepdim": lambda x: torch.mean(x, dim=1).unsqueeze(1),
    "negative dim": lambda x: x.mean(dim=-3, keepdim=True),
    "sum": lambda x: torch.sum(x, dim=(1,), keepdim=True),
    "axis": lambda x: x.mean(axis=1, keepdims=True),
    "amax": lambda x: x.amax(1, True),
    "amin": lambda x: torch.amin(x, dim=1, keepdim=True),
    "max by index": lambda x: torch.max(x, dim=1, keepdim=True)[0],
    "max by name": lambda x: x.max(1, keepdim=True).values,
    "max unpacked": lambda x: torch.max(x, 1)[0].unsqueeze(1),
    "min": lambda x: x.min(dim=1, keepdim=True)[0],
    "variance": lambda x: x.var(1, keepdim=True),
    "spread": lambda x: x.std(dim=1, unbiased=False, keepdim=True),
    "norm": lambda x: x.norm(2, 1, True) + torch.norm(x, p=2, dim=1, keepdim=True),
    "vector norm": lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True),
}


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_a_gate_from_channels(name: str) -> None:
    """``x * sigmoid(reduction)``: no merge, no split."""
    assert_exact(lambda x: x * OVER_CHANNELS[name](x).sigmoid())


OVER_POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "negative dims": lambda x: x.mean([-1, -2], keepdim=True),
    "flat": lambda x: x.mean((2, 3))[:, :, None, None],
    "in two steps": lambda x: x.mean(3).mean(2).view(x.shape[0], -1, 1, 1),
    "sum": lambda x: x.sum(dim=(2, 3), keepdim=True) / 96,
    "amax": lambda x: x.amax((2, 3), keepdim=True),
    "max and max": lambda x: x.max(3, keepdim=True)[0].max(2, keepdim=True)[0],
    "max by name": lambda x: x.max(3).values.max(2).values[..., None, None],
    "variance": lambda x: x.var((2, 3), keepdim=True) + x.std((2, 3), unbiased=False, keepdim=True),
    "norm": lambda x: x.norm(p=2, dim=(2, 3), keepdim=True),
    "everything": lambda x: x.mean((1, 2, 3), keepdim=True) + x.amax((1, 2), keepdim=True),
    "pooled": lambda x: F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, (1, 1)),
    "pooled by its size": lambda x: F.avg_pool2d(x, x.shape[-2:]) - F.max_pool2d(x, (x.size(2), x.size(3))),
    "generalised mean": lambda x: F.avg_pool2d(x.clamp(min=1e-6).pow(3), (8, 12)).pow(1 / 3),
    "rows": lambda x: x.mean(3, keepdim=True),
    "columns": lambda x: x.amax(2, keepdim=True),
    "cross": lambda x: x.mean(3, keepdim=True) * x.mean(2, keepdim=True),
    "adaptive rows": lambda x: F.adaptive_avg_pool2d(x, (None, 1)) + F.adaptive_max_pool2d(x, (8, 1)),
}


@pytest.mark.parametrize("name", OVER_POSITIONS)
def test_a_gate_from_positions(name: str) -> None:
    assert_exact(lambda x: x * OVER_POSITIONS[name](x).sigmoid())


@pytest.mark.parametrize("name", ["mean", "variance", "rows", "pooled"])
def test_a_gate_from_positions_at_odd_sizes(name: str) -> None:
    """The low branch's last row stands for one row. (Convolutions are exact inside only: 1x1 here.)"""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(3, CHANNELS, 1), nn.Conv2d(CHANNELS, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x * OVER_POSITIONS[name](x)).mean((2, 3))

    assert_exact(nn.Identity(), size=(7, 9), net=Gated(), alphas=(0.5,))


class Coordinates(nn.Module):
    """A gate for each row and one for each column, each from a convolution of the strip of means."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.columns = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.rows(x.mean(3, keepdim=True))).sigmoid()
        return x * rows * F.hardsigmoid(self.columns(x.mean(2, keepdim=True)))


class ShortStrips(nn.Module):
    """Rows and columns through one convolution, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(CHANNELS, 4, 1)
        self.rows, self.columns = nn.Conv2d(4, CHANNELS, 1), nn.Conv2d(4, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        strips = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(-1, -2)], 2)
        rows, columns = F.silu(self.shared(strips)).split([height, width], 2)
        return x * self.columns(columns.transpose(-1, -2)).sigmoid() * self.rows(rows).sigmoid()


class ChannelConvolution(nn.Module):
    """Channel attention by a convolution along channels, spread over the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3)).view(x.shape[0], 1, -1)
        return x * self.conv(y).sigmoid().view(x.shape[0], -1, 1, 1).expand_as(x)


class Spread(nn.Module):
    """A spatial gate, and a strip, spread over the map first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        return x * gate.sigmoid().expand_as(x) + x.mean(3, keepdim=True).expand_as(x)


class Squeeze(nn.Module):
    """Mean and maximum through one multilayer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(CHANNELS, 2, 1), nn.Conv2d(2, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.two(F.relu(self.one(x.mean((2, 3), keepdim=True))))
        peak = self.two(F.relu(self.one(x.amax((2, 3), keepdim=True))))
        return x * (mean + peak).sigmoid() + x * (0.5 * mean + 0.5 * peak)


GATES = [Coordinates, ShortStrips, ChannelConvolution, Spread, Squeeze]


@pytest.mark.parametrize("kind", GATES, ids=lambda kind: kind.__name__)
def test_gates(kind: type[nn.Module]) -> None:
    assert_exact(kind(), alphas=(0.25, 0.5))


class Between(nn.Module):
    """A gate of timm's between two convolutions."""

    def __init__(self, gate: nn.Module, channels: int) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(3, channels, 3, padding=1), gate
        self.last = nn.Conv2d(channels, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gate(self.first(x))).mean((2, 3))


@pytest.mark.parametrize(
    "name",
    [
        "cbam.CbamModule",
        "cbam.LightCbamModule",
        "coord_attn.CoordAttn",
        "coord_attn.StripAttn",
        "eca.EcaModule",
        "eca.CecaModule",
        "squeeze_excite.SEModule",
        "squeeze_excite.EffectiveSEModule",
    ],
)
def test_gates_of_timm(name: str) -> None:
    pytest.importorskip("timm")
    from importlib import import_module

    module, kind = name.split(".")
    torch.manual_seed(0)
    gate = getattr(import_module(f"timm.layers.{module}"), kind)(16)
    assert_exact(nn.Identity(), net=Between(gate, 16), alphas=(0.5,))


def test_joined_strips_are_not_boundaries_of_maps() -> None:
    """The parts of a strip are joined, which is counted as next to nothing."""
    made = converted(randomised(Between(ShortStrips(), CHANNELS)), noise(2, 3, 8, 12))
    small = [b.shape for b in made.rewritten.boundaries if b.vector]
    assert made.boundaries == []
    assert small
    assert all(is_reduced(shape) for shape in small)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "indices": (lambda x: x * x.max(1, keepdim=True)[1], "indices"),
    "batch": (lambda x: x - x.mean(0, keepdim=True), "batch"),
    "everything": (lambda x: x / x.std(), "batch"),
    "channels and positions": (lambda x: x / x.std((1, 2), keepdim=True), "at once"),
    "other norm": (lambda x: x / x.norm(1, 1, True), "does not follow"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    assert_refused(*REFUSED[name])


class SplitAttention(nn.Module):
    """Two groups of channels, weighted by a softmax over the groups and added (ResNeSt)."""

    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim
        self.conv = nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1, groups=2)
        self.one, self.two = nn.Conv2d(CHANNELS, 4, 1), nn.Conv2d(4, 2 * CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        batch, channels, height, width = x.shape
        x = x.reshape((batch, 2, channels // 2, height, width))
        gap = x.sum(dim=1, keepdim=self.keepdim).reshape(batch, channels // 2, height, width)
        gap = self.two(F.relu(self.one(gap.mean((2, 3), keepdim=True))))
        weights = gap.view(batch, 1, 2, -1).transpose(1, 2).softmax(1).reshape(batch, -1, 1, 1)
        return (x * weights.reshape((batch, 2, channels // 2, 1, 1))).sum(dim=1).contiguous()


@pytest.mark.parametrize("keepdim", [False, True])
def test_split_attention(keepdim: bool) -> None:
    assert_exact(SplitAttention(keepdim), alphas=(0.25, 0.5))


CHANNELS_LAST: dict[str, Callable[[Tensor], Tensor]] = {
    "gate of positions": lambda x: x * x.mean((1, 2), keepdim=True).sigmoid(),
    "flat gate": lambda x: x * x.amax((1, 2))[:, None, None, :],
    "gate of channels": lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True) + x.std(3, keepdim=True)),
    "rows": lambda x: x + x.mean(2, keepdim=True) + x.mean(dim=2).unsqueeze(2),
    "scale": lambda x: x * torch.linspace(1, 2, CHANNELS, dtype=x.dtype) + 1,
    "sums": lambda x: x.sum(3).unsqueeze(-1) * x,
}


@pytest.mark.parametrize("name", CHANNELS_LAST)
def test_channels_last(name: str) -> None:
    assert_exact(lambda x: CHANNELS_LAST[name](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), alphas=(0.25, 0.5))


class SelectiveKernel(nn.Module):
    """Paths stacked along a new dimension, weighted by a softmax over the paths and added."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, 1, d, d) for d in (1, 2))
        self.one, self.two = nn.Conv2d(CHANNELS, 4, 1), nn.Conv2d(4, 2 * CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([path(x) for path in self.paths], dim=1)
        weights = self.two(F.relu(self.one(x.sum(1).mean((2, 3), keepdim=True))))
        batch, channels, height, width = weights.shape
        weights = torch.softmax(weights.view(batch, 2, channels // 2, height, width), dim=1)
        return torch.sum(x * weights, dim=1)


def test_selective_kernels() -> None:
    assert_exact(SelectiveKernel(), alphas=(0.25, 0.5))
