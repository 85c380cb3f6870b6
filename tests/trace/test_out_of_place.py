"""What is changed in place is nobody else's: not in the rewritten graph, which copies less than the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from tests.oracle import EXACT, assert_same, noise

C = 8
COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "cat of one": lambda x: torch.cat([x], 1),
    "pad by nothing": lambda x: F.pad(x, [0, 0]),
    "same size": lambda x: F.interpolate(x, size=x.shape[2:]),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 8),
    "adaptive, as it is": lambda x: F.adaptive_max_pool2d(x, (None, None)),
    "window of one": lambda x: F.avg_pool2d(x, 1),
    "maximum of one": lambda x: F.max_pool2d(x, 1),
    "shuffle by one": lambda x: F.pixel_shuffle(x, 1),
    "scale of one": lambda x: F.interpolate(x, scale_factor=1),
    "flip of nothing": lambda x: x.flip(()),
    "repeat once": lambda x: x.repeat(1, 1, 1, 1),
    "roll by nothing": lambda x: x.roll(0, 1),
    "stack": lambda x: torch.stack([x])[0],
    "all channels": lambda x: x[:, list(range(C))],
    "index_select": lambda x: x.index_select(1, torch.arange(C)),
    "flatten one": lambda x: x.flatten(1, 1),
    "broadcast_to": lambda x: torch.broadcast_to(x, x.shape),
    "atleast_3d": torch.atleast_3d,
    "expand": lambda x: x.expand(-1, -1, -1, -1),
    "unsafe_split": lambda x: torch.unsafe_split(x, C, 1)[0],
    "resolve_conj": lambda x: x.resolve_conj(),
    "moved and back": lambda x: x.movedim(1, -1).movedim(-1, 1),
}
CHANGES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "the result": lambda x, y: y.relu_(),
    "the operand": lambda x, y: x.mul_(2),
    "by a function": lambda x, y: F.relu(y, inplace=True),
    "by a function of torch": lambda x, y: torch.relu_(y),
    "by a layer": lambda x, y: nn.ReLU(inplace=True)(y),
}


class Net(nn.Module):
    def __init__(self, copy: Callable[[Tensor], Tensor], change: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 6, 1)
        self.copy, self.change = copy, change

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.copy(x)
        self.change(x, y)
        return self.last(y + x)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", COPIES)
def test_right_or_refused(name: str, change: str) -> None:
    torch.manual_seed(0)
    model, x = Net(COPIES[name], CHANGES[change]).double().eval(), noise(2, 3, 8, 8)
    with torch.no_grad():
        try:
            result = octify.convert(model, x, rules="everywhere", kernels="exact")
        except OctifyError as error:
            assert "in place" in str(error)
            return
        assert_same(result.model(x), octify.reference(model, result.plan, x)(x), EXACT)


def test_memory_is_saved_where_it_was() -> None:
    """An activation in place behind a norm stays one."""
    model = nn.Sequential(
        nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.ReLU(inplace=True), nn.Conv2d(C, C, 1)
    ).eval()
    result = octify.convert(model, torch.zeros(1, 3, 8, 8), rules="everywhere")
    assert [m.inplace for m in result.model.modules() if isinstance(m, nn.ReLU)] == [True]
