"""What tracks modules (FLOP counters, profilers) follows a converted model: no parameter flows into a layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import octify
from tests.oracle import EXACT, assert_same, noise

CHANNELS = 16
PLACES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "layer scale": lambda m, y: y * m.vector.view(1, -1, 1, 1),
    "layer scale, kept as a map": lambda m, y: y * m.column,
    "a whole map is added": lambda m, y: y + m.map,
    "its slice": lambda m, y: y + m.map[:, :, :, :],
    "all of it, indexed": lambda m, y: y + m.map[...],
    "concatenated": lambda m, y: torch.cat([y, m.map], 1)[:, :CHANNELS] + y,
    "expanded": lambda m, y: torch.cat([m.map.expand(len(y), -1, -1, -1), y], 1)[:, CHANNELS:] + y,
    "stacked": lambda m, y: torch.stack([y, m.map], 1).sum(1),
    "a function": lambda m, y: torch.maximum(y, m.map.contiguous()),
    "norm": lambda m, y: torch.nn.functional.instance_norm(y, weight=m.vector, bias=m.vector),
    "slope": lambda m, y: torch.nn.functional.prelu(y, m.vector),
}


class Net(nn.Module):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.b = nn.Conv2d(CHANNELS, 4, 3, padding=1)
        self.vector = nn.Parameter(torch.rand(CHANNELS))
        self.column = nn.Parameter(torch.rand(CHANNELS, 1, 1))
        self.map = nn.Parameter(torch.rand(1, CHANNELS, 8, 8))
        self.place = PLACES[place]

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.place(self, self.a(x)))


TRACKERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "FLOP counter": lambda: FlopCounterMode(display=False),
    "module tracker": ModuleTracker,
}


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("place", PLACES)
def test_trackers_follow_a_converted_model(place: str, tracker: str) -> None:
    torch.manual_seed(0)
    net, x = Net(place).double().eval(), noise(1, 3, 8, 8)
    made = octify.convert(net, x, rules="everywhere", kernels="exact")
    with torch.no_grad(), TRACKERS[tracker]():
        found = made.model(x)
    assert_same(found, octify.reference(net, made.plan, x)(x), EXACT)
    with TRACKERS[tracker]():
        made.model(x).sum().backward()
    own = (net.vector, net.column, net.map)
    assert all(p.grad is None for p in own), "the user's own parameters are left alone"
