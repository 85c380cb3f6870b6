"""Questions about types are answered while a model is traced as they are when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.trace.noise import same


def _raises_for(y: Any) -> bool:
    try:
        return bool(y.tensors is not None)
    except AttributeError:
        return False


# Each a question, asked of a feature map, of which the model makes another factor by the answer.
QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "isinstance": lambda y: isinstance(y, Tensor),
    "isinstance of several": lambda y: isinstance(y, (list, Tensor)),
    "isinstance of others": lambda y: isinstance(y, (list, tuple, dict, int, nn.Parameter)),
    "is_tensor": lambda y: torch.is_tensor(y),
    "torch.jit.isinstance": lambda y: torch.jit.isinstance(y, Tensor),
    "type is": lambda y: type(y) is Tensor,
    "type ==": lambda y: type(y) == Tensor,  # noqa: E721
    "type in": lambda y: type(y) in (list, Tensor),
    "type name": lambda y: type(y).__name__ == "Tensor",
    "issubclass": lambda y: issubclass(type(y), Tensor),
    "class": lambda y: y.__class__ is Tensor,
    "hasattr": lambda y: hasattr(y, "tensors"),
    "hasattr of its own": lambda y: hasattr(y, "shape"),
    "getattr": lambda y: getattr(y, "mask", None) is None,
    "callable": lambda y: callable(y),
    "try": _raises_for,
    "dtype": lambda y: y.dtype == torch.float32,
    "dtype in": lambda y: y.dtype in (torch.float16, torch.bfloat16),
    "device": lambda y: y.device.type == "cpu",
    "device ==": lambda y: y.device == torch.device("cpu"),
    "is_cuda": lambda y: y.is_cuda,
    "layout": lambda y: y.layout == torch.strided,
    "is_floating_point": lambda y: y.is_floating_point(),
    "torch.is_floating_point": lambda y: torch.is_floating_point(y),
    "is_complex": lambda y: y.is_complex(),
    "torch.is_complex": lambda y: torch.is_complex(y),
    "not": lambda y: not isinstance(y, Tensor),
    "dim": lambda y: y.dim() == 4,
}


class Asks(nn.Module):
    def __init__(self, ask: Callable[[Any], Any]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y * 2 if self.ask(y) else y * 3
        return self.b(y)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_about_types_becomes_a_constant(name: str) -> None:
    torch.manual_seed(0)
    model = Asks(QUESTIONS[name]).eval()
    x = torch.randn(1, 3, 16, 16)
    made = octify.convert(model, x, alpha=0.0, rules="everywhere")
    half = octify.convert(model, x, rules="everywhere")
    assert half.report.totals.converted == 2  # in one graph: nothing was refused or run as it is
    assert not any("size" in each or "run as it is" in each for each in half.report.warnings)
    for size in ((1, 3, 16, 16), (3, 3, 32, 24)):
        other = torch.randn(size)
        with torch.no_grad():
            assert same(made.model(other), model(other))


class Summed(Asks):
    """Skip connections, summed from 0."""

    def forward(self, x: Tensor) -> Any:
        skip: Any = 0
        for _ in range(3):
            x = self.a(x)[:, :3]
            skip = x + (skip if torch.is_tensor(skip) else 0)
        return skip


class OneOrMany(Asks):
    """A head that takes one map or several."""

    def forward(self, x: Tensor) -> Any:
        return [self.b(y) for y in self.maps(self.a(x))] + [self.b(y) for y in self.maps([self.a(x)] * 2)]

    def maps(self, y: Any) -> Any:
        return [y] if isinstance(y, Tensor) else [each * 2 for each in y]


@pytest.mark.parametrize("kind", [Summed, OneOrMany])
def test_code_that_goes_by_types_is_traced(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(bool).eval()
    x = torch.randn(1, 3, 16, 16)
    made = octify.convert(model, x, alpha=0.0, rules="everywhere")
    with torch.no_grad():
        expected, actual = model(x), made.model(x)
    pairs = zip(expected, actual, strict=True) if isinstance(expected, list) else [(expected, actual)]
    assert all(same(a, b) for a, b in pairs)


class Secret(nn.Module):
    """It asks in a way that no proxy sees, and takes other channels by the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if getattr(y, "__class__").__name__ == "Tensor":  # noqa: B009
            y = torch.cat([y, y], 1)
        return self.head(y)


def test_a_graph_that_stops_does_not_mean_that_the_model_does() -> None:
    model, x = Secret().eval(), torch.randn(1, 3, 16, 16)
    result = octify.convert(model, x, alpha=0.0)
    with torch.no_grad():
        assert same(model(x), result.model(x))
    assert (
        octify.convert(model, x, alpha=0.5, rules="everywhere").report.totals.macs_after
        < result.report.totals.macs_after
    )
    with pytest.raises(octify.OctifyError, match="rejects an input of 1x3x2x2x2"):
        octify.convert(model, torch.randn(1, 3, 2, 2, 2), alpha=0.5)
