"""Random convolutional networks: ordinary modules with forward code, drawn by hypothesis.

A network is a stem, a chain of blocks and a head. Blocks nest (the body of a residual block is a chain), and
every map inside has even sizes, where the exact scheme promises equality.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.oracle import noise, randomised

Size = tuple[int, int]
Drawn = tuple[nn.Module, int, Size]  # a block, its output channels, its output size

# (kernel, stride, padding, dilation)
GEOMETRIES: list[tuple[Any, int, Any, int]] = [
    (1, 1, 0, 1),
    (3, 1, 1, 1),
    (3, 2, 1, 1),
    (1, 2, 0, 1),
    (2, 2, 0, 1),
    (5, 1, 2, 1),
    (5, 2, 2, 1),
    (7, 2, 3, 1),
    (4, 2, 1, 1),
    (3, 1, 2, 2),
    (3, 1, 3, 3),
    (3, 1, 4, 4),
    (3, 2, 2, 2),
    (3, 1, 0, 1),
    (2, 1, "same", 1),
    (4, 1, "same", 1),
    ((1, 5), 1, (0, 2), 1),
    ((3, 1), 1, (1, 0), 1),
    (4, 4, 0, 1),
    (6, 3, 0, 1),
]
SAME = [g for g in GEOMETRIES if g[1] == 1 and g != (3, 1, 0, 1)]


def _length(n: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _after(size: Size, geometry: tuple[Any, int, Any, int]) -> Size:
    kernel, stride, padding, dilation = geometry
    if padding == "same":
        return size
    kernels = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    pads = padding if isinstance(padding, tuple) else (padding, padding)
    lengths = [_length(n, k, stride, p, dilation) for n, k, p in zip(size, kernels, pads, strict=True)]
    return lengths[0], lengths[1]


def _even(size: Size) -> bool:
    return all(n >= 2 and n % 2 == 0 for n in size)


# Blocks with forward code of their own.


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None, style: str) -> None:
        super().__init__()
        self.body, self.shortcut, self.style = body, shortcut, style

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        skip = x if self.shortcut is None else self.shortcut(x)
        if self.style == "in place":
            y += skip
            return F.relu(y, inplace=True)
        if self.style == "method":
            return y.add(skip).relu()
        return skip - y if self.style == "difference" else F.silu(torch.add(y, skip))

    def extra_repr(self) -> str:
        return self.style


class Concat(nn.Module):
    """Branches of one input side by side, and the input itself first if ``keep`` (as in DenseNet)."""

    def __init__(self, branches: list[nn.Module], keep: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        return torch.cat([x, *parts] if self.keep else parts, 1)

    def extra_repr(self) -> str:
        return f"keep={self.keep}"


class Parts(nn.Module):
    """Two halves, or unequal parts, of the channels treated differently and joined again."""

    def __init__(self, body: nn.Module, style: str, first: int) -> None:
        super().__init__()
        self.body, self.style, self.first = body, style, first

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "chunk":
            a, b = x.chunk(2, 1)
            return torch.cat([b, self.body(a)], 1)
        if self.style == "slices":
            a, b = x[:, : self.first], x[:, self.first :, ...]
            return torch.cat((self.body(a), b), dim=1)
        if self.style == "split":
            a, b = torch.split(x, [self.first, x.size(1) - self.first], dim=1)
            return torch.cat((self.body(a), b), dim=1)
        a, b = torch.chunk(x, 2, dim=1)
        return self.body(a) * torch.sigmoid(b)

    def extra_repr(self) -> str:
        return f"{self.style}, first={self.first}"


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, style: str) -> None:
        super().__init__()
        self.style = style
        inner = max(1, channels // 4)
        linear = style in ("linear", "mean")
        self.reduce = nn.Linear(channels, inner) if linear else nn.Conv2d(channels, inner, 1)
        self.expand = nn.Linear(inner, channels) if linear else nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "linear":
            s = F.adaptive_avg_pool2d(x, 1).flatten(1)
            s = torch.sigmoid(self.expand(F.relu(self.reduce(s))))
            return x * s[:, :, None, None]
        if self.style == "mean":
            s = x.mean((2, 3))
            return x * torch.sigmoid(self.expand(F.relu(self.reduce(s)))).unsqueeze(-1).unsqueeze(-1)
        s = x.mean((2, 3), keepdim=True) if self.style == "mean, kept" else F.adaptive_avg_pool2d(x, (1, 1))
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(s))))

    def extra_repr(self) -> str:
        return self.style


class SpatialGate(nn.Module):
    """A gate of one channel, from a convolution or from the mean over channels."""

    def __init__(self, channels: int, style: str) -> None:
        super().__init__()
        self.style = style
        self.conv = nn.Conv2d(channels if style == "conv" else 1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        s = x if self.style == "conv" else x.mean(1, keepdim=True)
        return torch.sigmoid(self.conv(s)) * x

    def extra_repr(self) -> str:
        return self.style


class Twice(nn.Module):
    """One module called at two places: in a row, or on the two sides of a sum."""

    def __init__(self, body: nn.Module, other: nn.Module, row: bool) -> None:
        super().__init__()
        self.body, self.other, self.row = body, other, row

    def forward(self, x: Tensor) -> Tensor:
        if self.row:
            return self.body(F.relu(self.body(x)))
        return self.body(x) + self.body(self.other(x))

    def extra_repr(self) -> str:
        return "in a row" if self.row else "side by side"


class TiedPair(nn.Module):
    """Two convolutions that hold the same weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Shuffle(nn.Module):
    """A channel shuffle by reshaping."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Function(nn.Module):
    """Something elementwise, or a pooling, written as a function."""

    TABLE: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": lambda x: F.relu(x),
        "method relu": lambda x: x.relu(),
        "in place": lambda x: F.relu_(x),
        "tanh": lambda x: torch.tanh(x),
        "numbers": lambda x: 1 - 0.5 * (x + 2) / 3,
        "square": lambda x: x * x,
        "clamp": lambda x: x.clamp(-1, 1),
        "gelu": lambda x: F.gelu(x),
        "dropout": lambda x: F.dropout(x, 0.5, training=False),
        "max pool": lambda x: F.max_pool2d(x, 3, 1, 1),
        "average pool": lambda x: F.avg_pool2d(x, 3, 1, 1),
        "relative": lambda x: x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    }

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return self.TABLE[self.name](x)

    def extra_repr(self) -> str:
        return self.name


MODULES: dict[str, Callable[[int], nn.Module]] = {
    "BatchNorm": nn.BatchNorm2d,
    "ReLU": lambda c: nn.ReLU(),
    "ReLU, in place": lambda c: nn.ReLU(inplace=True),
    "SiLU": lambda c: nn.SiLU(),
    "Hardswish": lambda c: nn.Hardswish(),
    "PReLU": lambda c: nn.PReLU(c),
    "PReLU, one slope": lambda c: nn.PReLU(),
    "Dropout": lambda c: nn.Dropout(),
    "Identity": lambda c: nn.Identity(),
    "LayerScale": LayerScale,
    "GroupNorm": lambda c: nn.GroupNorm(math.gcd(c, 4), c),
}

POOLS: list[Callable[[], nn.Module]] = [
    lambda: nn.MaxPool2d(2),
    lambda: nn.MaxPool2d(3, 2, 1),
    lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    lambda: nn.MaxPool2d(3, 1, 1),
    lambda: nn.MaxPool2d(5, 1, 2),
    lambda: nn.AvgPool2d(2),
    lambda: nn.AvgPool2d(3, 2, 1),
    lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
]


# Strategies: each draws a block for ``channels`` at ``size``.


@st.composite
def channel_counts(draw: st.DrawFn) -> int:
    return draw(st.sampled_from([8, 16, 12, 24, 32]))


@st.composite
def conv(
    draw: st.DrawFn, channels: int, size: Size, geometries: Any = GEOMETRIES, out: int | None = None
) -> Drawn:
    fitting = [g for g in geometries if _even(_after(size, g))]
    geometry = draw(st.sampled_from(fitting))
    kernel, stride, padding, dilation = geometry
    out = draw(channel_counts()) if out is None else out
    groups = draw(st.sampled_from([1, 1, 1, *(g for g in (2, 4) if channels % g == 0 and out % g == 0)]))
    bias = draw(st.booleans())
    made = nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias)
    return made, out, _after(size, geometry)


@st.composite
def depthwise(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    geometry = draw(st.sampled_from([g for g in GEOMETRIES if _even(_after(size, g))]))
    kernel, stride, padding, dilation = geometry
    multiplier = draw(st.sampled_from([1, 1, 2])) if channels <= 16 else 1
    made = nn.Conv2d(channels, channels * multiplier, kernel, stride, padding, dilation, channels)
    return made, channels * multiplier, _after(size, geometry)


@st.composite
def per_channel(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    name = draw(st.sampled_from(sorted(MODULES) + sorted(Function.TABLE)))
    return (MODULES[name](channels) if name in MODULES else Function(name)), channels, size


@st.composite
def pooling(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    made = draw(st.sampled_from(POOLS))()
    out = made(torch.zeros(1, 1, *size)).shape[2:] if min(size) >= 4 else (1, 1)
    if not _even((out[0], out[1])):
        return nn.Identity(), channels, size
    return made, channels, (out[0], out[1])


@st.composite
def upsampling(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    if max(size) > 16:
        return nn.Identity(), channels, size
    factor = draw(st.sampled_from([2, 2, 3]))
    return nn.Upsample(scale_factor=factor, mode="nearest"), channels, (factor * size[0], factor * size[1])


@st.composite
def body(draw: st.DrawFn, channels: int, size: Size, out: int) -> nn.Module:
    """A chain that ends with ``out`` channels at the same size."""
    first, inner, _ = draw(conv(channels, size, SAME))
    middle, _, _ = draw(per_channel(inner, size))
    if draw(st.booleans()):
        spread = draw(st.sampled_from([g for g in SAME if _after(size, g) == size]))
        layer = nn.Conv2d(inner, inner, spread[0], 1, spread[2], spread[3], groups=inner)
        middle = nn.Sequential(middle, layer)
    last, _, _ = draw(conv(inner, size, SAME, out))
    return nn.Sequential(first, middle, last)


@st.composite
def residual(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    out = draw(st.sampled_from([channels, channels, 16, 24]))
    shortcut = nn.Conv2d(channels, out, 1, bias=False) if out != channels or draw(st.booleans()) else None
    style = draw(st.sampled_from(["in place", "method", "difference", "function"]))
    return Residual(draw(body(channels, size, out)), shortcut, style), out, size


@st.composite
def concatenation(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    keep = draw(st.booleans())
    outs = [draw(st.sampled_from([8, 4, 12])) for _ in range(draw(st.integers(1, 2)))]
    branches = []
    for out in outs:
        simple = draw(st.booleans())
        branches.append(
            draw(conv(channels, size, SAME, out))[0] if simple else draw(body(channels, size, out))
        )
    return Concat(branches, keep), sum(outs) + (channels if keep else 0), size


@st.composite
def parts(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    if channels % 8:
        return nn.Identity(), channels, size
    style = draw(st.sampled_from(["chunk", "slices", "split", "gated"]))
    first = (
        channels // 2
        if style in ("chunk", "gated")
        else draw(st.sampled_from([channels // 4, channels // 2]))
    )
    out = first if style == "gated" else draw(st.sampled_from([first, 8]))
    made = Parts(draw(body(first, size, out)), style, first)
    return made, out if style == "gated" else channels - first + out, size


@st.composite
def gate(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    if draw(st.booleans()):
        style = draw(st.sampled_from(["conv", "linear", "mean", "mean, kept"]))
        return SqueezeExcite(channels, style), channels, size
    return SpatialGate(channels, draw(st.sampled_from(["conv", "mean"]))), channels, size


@st.composite
def twice(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    row = draw(st.booleans())
    if row and draw(st.booleans()):
        return TiedPair(channels), channels, size
    inner, _, _ = draw(conv(channels, size, SAME, channels))
    other, _, _ = draw(conv(channels, size, SAME, channels))
    shared = nn.Sequential(inner, nn.BatchNorm2d(channels)) if draw(st.booleans()) else inner
    return Twice(shared, other, row), channels, size


@st.composite
def shuffle(draw: st.DrawFn, channels: int, size: Size) -> Drawn:
    groups = [g for g in (2, 4) if channels % g == 0]
    return Shuffle(draw(st.sampled_from(groups or [1]))), channels, size


BLOCKS = (
    conv,
    conv,
    depthwise,
    per_channel,
    per_channel,
    pooling,
    upsampling,
    residual,
    residual,
    concatenation,
    parts,
    gate,
    twice,
    shuffle,
)


class Head(nn.Module):
    """What becomes of the last map: logits in one of the usual ways, the map itself, or both."""

    def __init__(self, channels: int, size: Size, style: str) -> None:
        super().__init__()
        self.style = style
        features = channels * size[0] * size[1] if style == "flatten" else channels
        self.fc = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Any:
        if self.style == "map":
            return x
        if self.style == "flatten":
            return self.fc(torch.flatten(x, 1))
        if self.style == "max":
            return self.fc(F.adaptive_max_pool2d(x, 1).flatten(1))
        if self.style == "mean":
            return self.fc(x.mean([2, 3]))
        logits = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return (logits, x) if self.style == "both" else logits

    def extra_repr(self) -> str:
        return self.style


class Net(nn.Module):
    """A chain of blocks; the outputs of those in ``kept`` are added or concatenated at the end where they fit."""

    def __init__(self, blocks: list[nn.Module], long_skip: tuple[int, str] | None, head: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.long_skip = long_skip
        self.head = head

    def forward(self, x: Tensor) -> Any:
        kept = x
        for number, block in enumerate(self.blocks):
            x = block(x)
            if self.long_skip is not None and number == self.long_skip[0]:
                kept = x
        if self.long_skip is not None:
            x = x + kept if self.long_skip[1] == "add" else torch.cat((kept, x), 1)
        return self.head(x)

    def extra_repr(self) -> str:
        return f"long_skip={self.long_skip}"


@dataclass(frozen=True)
class Sample:
    """A drawn network in float64 and eval mode. Its repr is all that a failing example shows."""

    net: nn.Module
    size: Size

    @property
    def x(self) -> Tensor:
        """Two images of 3 channels."""
        return noise(2, 3, *self.size)


HEADS = ["average", "mean", "max", "flatten", "map", "both"]


def _in_place(block: nn.Module) -> bool:
    return getattr(block, "inplace", False) or getattr(block, "name", "") == "in place"


def _same_object(block: nn.Module) -> bool:
    """Whether a block hands on its very input, so that an in-place block behind it would change that too.

    A long skip from before such a pair reads the changed value: of that, octify's reference knows nothing.
    """
    return isinstance(block, (nn.Identity, nn.Dropout)) or getattr(block, "name", "") == "dropout"


@st.composite
def nets(draw: st.DrawFn, blocks: int = 6) -> Sample:
    """A network and an input size for it."""
    torch.manual_seed(draw(st.integers(0, 9)))
    size = given_size = draw(st.sampled_from([(8, 8), (16, 16), (12, 20), (24, 16)]))
    stem, channels, size = draw(conv(3, size, [g for g in GEOMETRIES if g[1] < 3]))
    chain: list[nn.Module] = [stem]
    shapes = [(channels, size)]
    for _ in range(draw(st.integers(2, blocks))):
        block, channels, size = draw(draw(st.sampled_from(BLOCKS))(channels, size))
        if _in_place(block) and _same_object(chain[-1]):
            block = nn.ReLU()
        chain.append(block)
        shapes.append((channels, size))
    long_skip = None
    if draw(st.booleans()):
        adds = [(n, "add") for n, shape in enumerate(shapes[:-1]) if shape == (channels, size)]
        cats = [(n, "cat") for n, (_, at) in enumerate(shapes[:-1]) if at == size]
        if adds or cats:
            long_skip = draw(st.sampled_from(adds + cats))
            channels += shapes[long_skip[0]][0] if long_skip[1] == "cat" else 0
    style = draw(st.sampled_from(HEADS))
    return Sample(randomised(Net(chain, long_skip, Head(channels, size, style))), given_size)
