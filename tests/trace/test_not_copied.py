"""What a model holds that Python cannot copy is one clear error, with the attribute."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError


def _generator() -> Any:
    return (n for n in range(3))


HELD: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "in a list": lambda: [1, {"lock": threading.Lock()}],
    "event": threading.Event,
    "generator": _generator,
    "file": lambda: Path(__file__).open(encoding="utf-8"),  # noqa: SIM115 - closed by the test
}


class Holds(nn.Module):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.held = held

    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


class Refuses(nn.Module):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("no copies of this, please")

    def forward(self, x: Tensor) -> Any:
        return x


@pytest.mark.parametrize("name", HELD)
def test_the_attribute_is_named(name: str) -> None:
    held = HELD[name]()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Holds(held), nn.Conv2d(8, 8, 3)).eval()
    try:
        with pytest.raises(
            OctifyError, match=r"(?s)cannot be copied.*1\.held \(Holds\).*leaves the model as it is"
        ):
            octify.convert(model, torch.randn(1, 3, 16, 16))
    finally:
        if hasattr(held, "close"):
            held.close()


def test_a_class_that_refuses_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Refuses(), nn.Conv2d(8, 8, 3)).eval()
    with pytest.raises(OctifyError, match=r"(?s)cannot be copied.*no copies of this, please"):
        octify.convert(model, torch.randn(1, 3, 16, 16))
