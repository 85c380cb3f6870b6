"""What a calibrated conversion works out once is not worked out again."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import fx, nn

import octify
import octify.allocate.search
import octify.calibrate.recipe
import octify.conversion
from octify.trace import Traced

SPIED = {
    "couple": "octify.passes.couple",
    "resolve": "octify.passes.resolve",
    "rewrite": "octify.passes.rewrite",
}

pytestmark = pytest.mark.usefixtures("short_calibration")


class Three(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Conv2d(16, 8, 3, padding=1),
        )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of the passes, in whichever module they are called, and deep copies of whole models."""
    count: Counter[str] = Counter()
    package = [
        m for name, m in sys.modules.items() if name.startswith("octify") and isinstance(m, ModuleType)
    ]
    for name, home in SPIED.items():
        real = getattr(sys.modules[home], name)

        def spy(*args: Any, _name: str = name, _real: Any = real, **options: Any) -> Any:
            count[_name] += 1
            return _real(*args, **options)

        for module in package:
            if vars(module).get(name) is real:
                monkeypatch.setattr(module, name, spy)
    deepcopy = copy.deepcopy

    def copied(x: Any, memo: Any = None) -> Any:
        count["copies"] += memo is None and isinstance(x, fx.GraphModule | Traced)
        return deepcopy(x, memo)

    monkeypatch.setattr(copy, "deepcopy", copied)
    return count


def images(count: int = 64) -> list[torch.Tensor]:
    return list(torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


def test_a_conversion(calls: Counter[str]) -> None:
    octify.convert(Three().eval(), images()[0][None])
    assert 1 <= calls["couple"] <= 2
    assert calls["resolve"] <= 1
    assert calls["rewrite"] == 1


def test_a_calibration(calls: Counter[str]) -> None:
    octify.convert(Three().eval(), images()[0][None], calibration=images())
    assert 1 <= calls["couple"] <= 2
    assert calls["resolve"] <= 2
    assert 1 <= calls["rewrite"] <= 2
    assert 1 <= calls["copies"] <= 3


def test_a_target_rewrites_what_it_calibrates(calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And once more, for the uncalibrated error in the report."""
    real = octify.calibrate.recipe.calibrate_on
    count: Counter[str] = Counter()

    def spy(*args: Any, **options: Any) -> Any:
        count["calibrated"] += 1
        return real(*args, **options)

    for name in ("octify.allocate.trials", "octify.allocate.quick"):
        monkeypatch.setattr(sys.modules[name], "calibrate_on", spy)
    octify.convert(Three().eval(), images()[0][None], calibration=images(), effort="fast", target_macs=0.7)
    assert count["calibrated"] >= 2
    assert calls["rewrite"] == count["calibrated"] + 1
