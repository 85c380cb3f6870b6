"""Random networks with linear streams, and random bases for all that can be rotated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.calibrate.rotate import streams
from octify.plan import Plan
from octify.plan.rotation import RotatedWriter, Rotation, encoded
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import Traced
from tests.graphs import Sample
from tests.oracle import randomised


def planned(traced: Traced, alpha: float = 0.5) -> Plan:
    """Everything that can be octave."""
    return make_plan(traced, load_rules("everywhere"), alpha)


def with_random_bases(traced: Traced, plan: Plan, seed: int = 0) -> Plan:
    """``plan`` with a random basis of condition number at most 4 for every stream that can be rotated."""
    generator = torch.Generator().manual_seed(seed)

    def random(count: int) -> Tensor:
        return torch.randn(count, count, generator=generator, dtype=torch.float64)

    made = []
    for stream in streams(traced):
        if stream.reason is None:
            left, _ = torch.linalg.qr(random(stream.channels))
            right, _ = torch.linalg.qr(random(stream.channels))
            sizes = torch.linspace(0.5, 2, stream.channels, dtype=torch.float64)
            spread = encoded(torch.linspace(0.25, 3, stream.channels))
            writers = tuple(RotatedWriter(w.path, w.norm, spread if w.norm else "") for w in stream.writers)
            readers = tuple(reader.path for reader in stream.readers)
            made.append(Rotation(stream.channels, writers, readers, encoded(left * sizes @ right)))
    return replace(plan, rotations=tuple(made))


class Inverted(nn.Module):
    """An inverted residual: wide inside, linear outside."""

    def __init__(self, channels: int, out: int, style: str, *, norm: bool) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Conv2d(channels, wide, 1, bias=not norm)
        self.spatial = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.project = nn.Conv2d(wide, out, 1, bias=not norm)
        self.norm: nn.Module = nn.BatchNorm2d(out) if norm else nn.Identity()
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.project(F.relu6(self.spatial(F.relu(self.expand(x))))))
        if self.style == "skip":
            return x + y
        if self.style == "in place":
            y += x
            return y
        if self.style == "weighed":
            return torch.sub(x, 0.5 * y)
        if self.style == "gated":
            return x + y * y.mean(1, keepdim=True).sigmoid()
        if self.style == "scaled":
            return x * torch.sigmoid(y)
        return y

    def extra_repr(self) -> str:
        return self.style


class Between(nn.Module):
    """What may stand in a stream, or must not."""

    TABLE: dict[str, Any] = {
        "average pool": lambda x: F.avg_pool2d(x, 3, 1, 1),
        "pad": lambda x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
        "zeros": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1),
        "ones": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=1.0), 3, 1),
        "enlarged": lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2.0, mode="bilinear"), 2),
        "halved": lambda x: x / 2,
        "over": lambda x: 2 / (1 + x * x),
        "shifted": lambda x: x + 1,
        "moved": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        "turned": lambda x: x.transpose(1, 2).transpose(1, 2),
        "mixed": lambda x: x.flip(1),
        "negative": lambda x: -x,
        "relu": F.relu,
        "max pool": lambda x: F.max_pool2d(x, 3, 1, 1),
        "twice": lambda x: sum([x, x]),
        "mean of channels": lambda x: x - x.mean(1, keepdim=True),
        "mean of positions": lambda x: x - x.mean((2, 3), keepdim=True),
        "joined": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    }

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.TABLE[self.name](x)
        return result

    def extra_repr(self) -> str:
        return self.name


class Strips(nn.Module):
    """A 3x3 convolution in two linear factors."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.upright = nn.Conv2d(channels, 8, (3, 1), padding=(1, 0), bias=False)
        self.level = nn.Conv2d(8, out, (1, 3), padding=(0, 1), padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.level(self.upright(x)))


class Again(nn.Module):
    """One linear layer at two places: behind itself, or on both sides of a sum."""

    def __init__(self, channels: int, style: str, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm: nn.Module = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "in a row":
            return self.norm(self.conv(self.norm(self.conv(x))))
        if self.style == "one norm":
            return self.norm(self.conv(x)) + self.conv(F.relu(x))
        return self.norm(self.conv(x)) + self.norm(self.conv(-x))

    def extra_repr(self) -> str:
        return self.style


class Tokens(nn.Module):
    """Linear layers over channels in the last dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels, 6), nn.Linear(6, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Ends(nn.Module):
    def __init__(self, channels: int, size: int, style: str) -> None:
        super().__init__()
        self.style = style
        self.fc = nn.Linear(channels * size * size if style == "flat" else channels, 4)

    def forward(self, x: Tensor) -> Any:
        if self.style == "flat":
            return self.fc(F.dropout(x.flatten(1), 0.5, self.training))
        if self.style == "view":
            x = F.adaptive_avg_pool2d(x, 1)
            return self.fc(x.view(x.size(0), -1))
        if self.style == "both":
            return self.fc(x.mean((2, 3))), x
        return self.fc(x.mean([2, 3]))

    def extra_repr(self) -> str:
        return self.style


@st.composite
def linear_nets(draw: st.DrawFn) -> Sample:
    """A chain of blocks on a stream, with a head."""
    torch.manual_seed(draw(st.integers(0, 9)))
    channels = draw(st.sampled_from([6, 8]))
    blocks: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1)]
    if draw(st.booleans()):
        blocks.append(nn.BatchNorm2d(channels))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["inverted", "inverted", "between", "strips", "again", "tokens", "up"]))
        norm = draw(st.booleans())
        if kind == "inverted":
            style = draw(st.sampled_from(["skip", "in place", "weighed", "gated", "scaled", "plain"]))
            out = draw(st.sampled_from([channels, 10])) if style == "plain" else channels
            blocks.append(Inverted(channels, out, style, norm=norm))
            channels = out
        elif kind == "between":
            blocks.append(Between(draw(st.sampled_from(sorted(Between.TABLE)))))
        elif kind == "strips":
            blocks.append(Strips(channels, channels))
        elif kind == "again":
            blocks.append(
                Again(channels, draw(st.sampled_from(["in a row", "one norm", "both sides"])), norm=norm)
            )
        elif kind == "tokens":
            blocks.append(Tokens(channels))
        else:
            blocks += [nn.ConvTranspose2d(channels, 6, 2, 2), nn.AvgPool2d(2)]
            channels = 6
    blocks.append(Ends(channels, 4, draw(st.sampled_from(["flat", "view", "both", "mean"]))))
    return Sample(randomised(nn.Sequential(*blocks)), (8, 8))
