"""Convolutions over an axis of one sample: it has no halves, and no kernel may be composed for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.passes.reference import reference
from tests.between import CHANNELS as C
from tests.between import Between, converted
from tests.oracle import EXACT, assert_same, noise, randomised


class Added(nn.Module):
    """``x + conv(reduce(x))``: the sum ties the convolution's channels to those of the map."""

    def __init__(self, reduce: Callable[[Tensor], Tensor], conv: nn.Module) -> None:
        super().__init__()
        self.reduce, self.conv = reduce, conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.reduce(x))


def vector(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def rows(x: Tensor) -> Tensor:
    return x.mean(3, keepdim=True)


def columns(x: Tensor) -> Tensor:
    return x.mean(2, keepdim=True)


def pooled(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 2)


CASES: dict[str, tuple[Callable[[Tensor], Tensor], nn.Module]] = {
    "vector, 1x1": (vector, nn.Conv2d(C, C, 1)),
    "vector, 3x3": (vector, nn.Conv2d(C, C, 3, padding=1)),
    "vector, depthwise": (vector, nn.Conv2d(C, C, 3, padding=1, groups=C)),
    "vector, strided": (vector, nn.Conv2d(C, C, 1, 2)),
    "rows, 1x1": (rows, nn.Conv2d(C, C, 1)),
    "rows, 3x1": (rows, nn.Conv2d(C, C, (3, 1), padding=(1, 0))),
    "rows, depthwise": (rows, nn.Conv2d(C, C, (3, 1), padding=(1, 0), groups=C)),
    "columns, 3x3": (columns, nn.Conv2d(C, C, 3, padding=1)),
    "to one, padded": (pooled, nn.Conv2d(C, C, 3, 2, 1)),
    "to one": (pooled, nn.Conv2d(C, C, 2)),
    "to one, depthwise": (pooled, nn.Conv2d(C, C, 2, groups=C)),
    "to one, strided": (pooled, nn.Conv2d(C, C, 1, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_exact(name: str) -> None:
    model, x = randomised(Between(Added(*CASES[name]))), noise(2, 3, 8, 12)
    made = converted(model, x)
    assert made.low("first") == C // 2
    assert len(made.boundaries) == (name == "to one, depthwise")
    # The other axis is long there (octify.layout.single).
    assert (made.low("operation.conv") > 0) == (name.endswith("1x1") or name.startswith(("rows", "columns")))
    with torch.no_grad():
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)


def test_one_module_at_two_sizes() -> None:
    """Called on a map and on a vector it can have one layout only."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(C, C, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.conv(vector(x))

    model, x = randomised(Between(Shared())), noise(2, 3, 8, 12)
    made = converted(model, x)
    assert not made.plan.conv("operation.conv").converted
    with torch.no_grad():
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)
