"""A region of autocast in a forward is no reason to refuse: the report says that it is not in the graph."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.errors import TraceError
from octify.trace.noise import gap, largest

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 8, 3, padding=1)


class Full(Base):
    """It leaves the caller's autocast, as losses and attention do."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        with torch.autocast("cpu", enabled=False):  # here
            y = self.b(y.float())
        return self.c(F.relu(self.bn(y)))


class Narrow(Base):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):  # here
            y = self.b(self.a(x))
        return self.c(self.bn(y.float()))


class Decorated(Base):
    @torch.autocast("cpu", dtype=torch.bfloat16)  # here
    def features(self, x: Tensor) -> Any:
        return self.b(self.a(x))

    def forward(self, x: Tensor) -> Any:
        return self.c(self.bn(self.features(x).float()))


class DecoratedForward(Base):
    @torch.autocast("cpu", dtype=torch.bfloat16)  # here
    def forward(self, x: Tensor) -> Any:
        return self.c(self.bn(self.b(self.a(x)))).float()


class Elsewhere(Base):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cuda", dtype=torch.float16, enabled=False):  # here
            y = self.b(self.a(x))
        return self.c(self.bn(y))


class Inside(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Narrow()

    def forward(self, x: Tensor) -> Any:
        return self.inner(x) + self.c(self.b(self.a(x)))


def told(kind: Any) -> tuple[nn.Module, octify.Result, list[str]]:
    torch.manual_seed(0)
    model = kind().eval()
    result = octify.convert(model, X, alpha=0.0)
    return model, result, [each for each in result.report.warnings if "no regions of autocast" in each]


@pytest.mark.parametrize("kind", [Full, Narrow, Decorated, DecoratedForward, Elsewhere, Inside])
def test_it_is_converted_and_the_line_is_named(kind: Any) -> None:
    model, result, (sentence,) = told(kind)
    lines, start = inspect.getsourcelines(Narrow if kind is Inside else kind)
    place = next(start + n for n, line in enumerate(lines) if line.rstrip().endswith("here"))
    assert f"({__file__}:{place})" in sentence
    with torch.no_grad():
        expected, actual = model(X), result.model(X)
    allowed = 16 * torch.finfo(torch.bfloat16).eps * largest(expected)
    assert expected.dtype is actual.dtype and gap(expected, actual) <= allowed
    converted = octify.convert(model, X, alpha=0.5, rules="everywhere", kernels="exact")
    assert all(conv.low_in or conv.low_out for conv in converted.plan.convs)
    reference = octify.reference(model, converted.plan, X)
    with torch.no_grad():
        assert gap(reference(X), converted.model(X)) <= 64 * torch.finfo().eps * largest(expected)


def test_without_a_region_nothing_is_told() -> None:
    class Plain(Base):
        def forward(self, x: Tensor) -> Any:
            return self.c(self.bn(self.b(self.a(x))))

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):  # the user's own
        assert told(Plain)[2] == []


class Answers(Base):
    """Its result is in another dtype for its region."""

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.b(self.a(x))


class Wrong(Base):
    """A region, and something else that no graph has."""

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.b(self.a(x)).float()
        return self.c(y) * (2 if getattr(y, "__class__").__name__ == "Tensor" else 1)  # noqa: B009


@pytest.mark.parametrize("kind", [Answers, Wrong])
def test_another_difference_is_still_refused(kind: Any) -> None:
    with pytest.raises(TraceError, match="computes something else"):
        told(kind)
