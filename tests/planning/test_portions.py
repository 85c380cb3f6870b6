"""Parts of the channels that convolutions read differently all get their share of low ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.planning.planner import make_plan
from octify.planning.portions import low_channels
from octify.planning.ruleset import load_rules
from octify.trace import trace


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_every_part_has_its_share(lengths: list[int], data: st.DataObject) -> None:
    total = sum(lengths)
    count = data.draw(st.integers(0, total))
    parts = np.split(np.arange(total), np.cumsum(lengths)[:-1])
    low = low_channels(parts, count)
    assert len(low) == len(set(low.tolist())) == count
    for part in parts:
        mine = np.intersect1d(part, low)
        assert abs(len(mine) - len(part) * count / total) < 1
        assert np.array_equal(mine, part[len(part) - len(mine) :])


class Halves(nn.Module):
    """Blocks that convolve one half of the channels and then shuffle, as ShuffleNet v2 does."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(channels // 2, channels // 2, 1) for _ in range(blocks))
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            kept, changed = x.chunk(2, 1)
            x = self.shuffle(torch.cat((kept, block(changed)), 1))
        return x.mean((2, 3))


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_both_halves_of_a_shuffled_network_have_low_channels(alpha: float) -> None:
    channels = 32
    traced = trace(Halves(channels, 4), torch.zeros(1, 3, 16, 16))
    plan = make_plan(traced, load_rules("everywhere"), alpha, "exact")
    for conv in plan.convs[1:]:
        # Four blocks part the channels of the stem into 16 parts of two; each is rounded by itself.
        assert abs(conv.alpha_in - alpha) <= 0.25, (conv.path, conv.alpha_in)
        assert abs(conv.alpha_out - alpha) <= 1 / 16
