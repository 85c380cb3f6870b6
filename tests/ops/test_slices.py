"""Stacked maps: reductions, softmax and gates across slices are exact on each branch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.between import ALPHAS, CHANNELS, assert_exact, assert_refused

Function = Callable[[Tensor], Tensor]


def twice(x: Tensor) -> Tensor:
    """Each half of the channels two times: 8 from 4."""
    return torch.cat((x, x), 1)


def halves(x: Tensor, dim: int = 1) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.stack((a, b), dim)


ACROSS: dict[str, Function] = {
    "sum": lambda x: twice(halves(x).sum(1)),
    "mean, kept": lambda x: twice(halves(x).mean(1, keepdim=True).squeeze(1)),
    "amax inside": lambda x: twice(halves(x, 2).amax(2)),
    "max, the values": lambda x: twice(halves(x).max(1)[0]),
    "variance": lambda x: twice(halves(x).var(dim=1, unbiased=False)),
    "norm": lambda x: twice(x.unflatten(1, (2, 4)).norm(2, 1)),
    "two axes": lambda x: twice(twice(x.unflatten(1, (2, 2, 2)).sum((1, 3)))),
    "softmax": lambda x: x.unflatten(1, (2, 4)).softmax(1).flatten(1, 2),
    "softmax inside": lambda x: F.softmax(x.unflatten(1, (4, 2)), dim=2).flatten(1, 2),
    "softmax module": nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Softmax(1), nn.Flatten(1, 2)),
    "all channels, channels last": lambda x: x * x.permute(0, 2, 3, 1).mean(-1).unsqueeze(1),
    "all channels, kept": lambda x: x * x.permute(0, 2, 3, 1).amax(-1, keepdim=True).permute(0, 3, 1, 2),
    "positions, channels last": lambda x: (x.permute(0, 2, 3, 1) * torch.sigmoid(x.permute(0, 2, 3, 1).mean((1, 2), True))).permute(0, 3, 1, 2),
    "gate of slices": lambda x: twice((x.unflatten(1, (2, 4)) * torch.softmax(x.mean((2, 3)).view(x.shape[0], 2, 4, 1, 1), 1)).sum(1)),
    "maximum of views": lambda x: torch.max(x.permute(0, 2, 3, 1), -x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ACROSS)
def test_no_merge_and_exact(name: str) -> None:
    # A quarter of two tied channels is none.
    assert_exact(ACROSS[name], alphas=(0.5, 1.0) if name == "two axes" else ALPHAS)


class SelectiveKernel(nn.Module):
    """Two convolutions, stacked, weighed by their common mean, and added (Li et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=d, dilation=d) for d in (1, 2))
        self.weigh = nn.Conv2d(CHANNELS, 2 * CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [path(x) for path in self.paths]
        stack = torch.stack(maps, 1)
        weights = self.weigh(stack.sum(1).mean((2, 3), keepdim=True))
        n, c, h, w = weights.shape
        return (stack * weights.view(n, 2, c // 2, h, w).softmax(1)).sum(1)


class SplitAttention(nn.Module):
    """A grouped convolution whose parts are weighed against each other (Zhang et al. 2020)."""

    def __init__(self, radix: int, groups: int) -> None:
        super().__init__()
        self.radix, self.groups = radix, groups
        self.conv = nn.Conv2d(CHANNELS, radix * CHANNELS, 3, padding=1, groups=radix * groups)
        self.weigh = nn.Conv2d(CHANNELS, radix * CHANNELS, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        n, rc, h, w = x.shape
        x = x.reshape((n, self.radix, rc // self.radix, h, w))
        gate = self.weigh(x.sum(dim=1).mean((2, 3), keepdim=True))
        gate = (
            gate.view(n, self.groups, self.radix, -1)
            .transpose(1, 2)
            .softmax(1)
            .reshape(n, -1)
            .view(n, -1, 1, 1)
        )
        return (x * gate.reshape((n, self.radix, rc // self.radix, 1, 1))).sum(dim=1)


@pytest.mark.parametrize(
    "block", [SelectiveKernel(), SplitAttention(2, 1), SplitAttention(2, 2), SplitAttention(4, 1)], ids=repr
)
def test_attention_over_slices(block: nn.Module) -> None:
    assert_exact(block, alphas=(0.5,))


REFUSED: dict[str, tuple[Function, str]] = {
    "indices": (lambda x: x + x.unflatten(1, (2, 4)).max(1)[1].repeat(1, 2, 1, 1), "returns indices"),
    "all at once": (lambda x: x * x.unflatten(1, (2, 4)).var((1, 3, 4)).repeat(1, 2)[:, :, None, None], "positions and some of the channel dimensions"),
    "positions and slices": (lambda x: twice(x[:, 4:]) * twice(x.unflatten(1, (2, 4)).sum((1, 3, 4)))[:, :, None, None], "positions and some of the channel dimensions"),
    "softmax of positions": (lambda x: x.permute(0, 2, 3, 1).softmax(1).permute(0, 3, 1, 2), "mixes all channels or positions"),
    "no rule": (lambda x: x.permute(0, 2, 3, 1).cumsum(1).permute(0, 3, 1, 2), "cumsum of a value whose channels are not in dimension 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_reason(name: str) -> None:
    assert_refused(*REFUSED[name])
