"""Constants and weights that do not lie in memory in their own order are exported with their own values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import octify

ORDERS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.randn(16, 16).t(),
    "a step of two": lambda: torch.randn(16, 32)[:, ::2],
    "part": lambda: torch.randn(32, 32)[5:21, 7:23],
    "channels last": lambda: torch.randn(1, 8, 16, 16).to(memory_format=torch.channels_last),
    "expanded": lambda: torch.randn(1, 16).expand(16, 16),
}
KINDS = ("buffer", "parameter", "attribute")


class Net(nn.Module):
    def __init__(self, kind: str, grid: Tensor) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        if kind == "buffer":
            self.register_buffer("grid", grid)
        else:
            self.grid = nn.Parameter(grid) if kind == "parameter" else grid

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.conv(x) * self.grid)
        return y


def check(model: nn.Module, place: Path) -> None:
    x = torch.randn(1, 3, 16, 16)
    for number, each in enumerate((model, octify.convert(model, x, rules="everywhere").model)):
        assert octify.export_onnx(each, x, place / f"{number}.onnx").passed


@pytest.mark.parametrize(("kind", "name"), [(KINDS[n % 3], name) for n, name in enumerate(ORDERS)])
def test_a_constant_in_another_order(kind: str, name: str, tmp_path: Path) -> None:
    grid = ORDERS[name]()
    assert name == "expanded" or not grid.is_contiguous()
    check(Net(kind, grid).eval(), tmp_path)


def test_weights_with_channels_last(tmp_path: Path) -> None:
    model = Net("buffer", torch.ones(1)).eval().to(memory_format=torch.channels_last)
    assert not model.conv.weight.is_contiguous()
    check(model, tmp_path)
