"""Results of classes of the model's own: converted, calibrated and exported as what they are."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.export.program import export_program
from octify.trace.noise import Nearness
from octify.trace.sameness import difference

Pair = namedtuple("Pair", "logits maps")


class Typed(NamedTuple):
    logits: Any
    maps: Any = None


@dataclass
class Data:
    logits: Any
    maps: Any = None


@dataclass(frozen=True)
class Frozen:
    logits: Any
    maps: Any = None


class Attributes(OrderedDict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass
class Output(OrderedDict[str, Any]):
    """As transformers' ModelOutput: fields that are entries too, but for those that are None."""

    logits: Any = None
    loss: Any = None
    maps: Any = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                super().__setitem__(field.name, value)

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]


MAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "tensor": lambda y, f: y,
    "namedtuple": Pair,
    "NamedTuple": lambda y, f: Typed(y),
    "dataclass": lambda y, f: Data(y),
    "frozen dataclass": Frozen,
    "attributes": lambda y, f: Attributes(logits=y, maps=f),
    "ModelOutput": lambda y, f: Output(logits=y),
    "ModelOutput with maps": lambda y, f: Output(logits=y, maps=(f, y)),
    "nested": lambda y, f: {"out": Output(logits=y), "rest": [Data(f, (y, None))]},
}


class Net(nn.Module):
    def __init__(self, make: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.make = make

    def forward(self, x: Tensor) -> Any:
        features = self.a(x)
        return self.make(self.b(features.relu()), features)


@pytest.mark.parametrize("name", MAKERS)
def test_a_result_keeps_its_class(name: str) -> None:
    torch.manual_seed(0)
    model = Net(MAKERS[name]).eval()
    x = torch.randn(2, 3, 16, 16)
    made = octify.convert(model, x, alpha=0.0, rules="everywhere")
    with torch.no_grad():
        assert difference(model(x), made.model(x), Nearness.exact) is None
    assert octify.convert(model, x, rules="everywhere").report.totals.converted == 2


@pytest.mark.parametrize("name", MAKERS)
def test_a_result_of_any_class_is_exported(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 16, 16)
    made = octify.convert(Net(MAKERS[name]).eval(), x, rules="everywhere").model
    assert octify.export_onnx(made, x, tmp_path / "net.onnx").passed
    assert export_program(made, x, tmp_path / "net.pt2").passed


def test_a_model_whose_result_is_a_dataclass_is_calibrated() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 16, 16)
    made = octify.convert(Net(Data).eval(), x[:1], rules="everywhere", calibration=[x], effort="fast")
    assert made.report.calibration is not None and isinstance(made.model(x), Data)
