"""What the comparison of a traced graph with its model must see, and must not take for a difference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.trace.noise import same

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Any:
        return self.b(self.a(x))


def _doubles(y: Any) -> Any:
    """A function that changes its operand, and returns it."""
    y.mul_(2)
    return y


def _same(y: Any) -> Any:
    return y


class ThroughAFunction(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        z = _same(y)
        _doubles(z)
        return self.b(y) + z


class OfAView(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        y.view(y.shape[0], -1).mul_(2)
        return self.b(y)


class OfAPart(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        first, _ = y.chunk(2, 1)
        first.add_(1)
        return self.b(y)


class Returns(nn.Module):
    """Returns its input, and changes it or not: its code asks for a value, so that nothing sees inside."""

    def __init__(self, changes: bool) -> None:
        super().__init__()
        self.changes = changes

    def forward(self, x: Tensor) -> Any:
        if float(x.abs().mean()) < 0:
            return x * 3
        return x.add_(1) if self.changes else x


class ChangesInALeaf(Base):
    """What an opaque leaf changes in place is read after it."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf = Returns(True)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        self.leaf(y)
        return self.b(y)


class ChangesWhatALeafReturns(Base):
    def __init__(self) -> None:
        super().__init__()
        self.leaf = Returns(False)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        z = self.leaf(y)
        z.mul_(2)
        return self.b(y) + z


class ByTheBatch(Base):
    """It computes something else at another batch."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return self.b(y * 2 if len(x) == 2 else y)


class BySize(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return self.b(y * 2 if y.shape[-1] > 20 else y)


class Random(Base):
    """Stochastic in eval mode, too."""

    def forward(self, x: Tensor) -> Any:
        return self.b(F.dropout(self.a(x), 0.5, training=True))


class Embedded(Base):
    """Takes numbers of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.a(self.table(x).permute(0, 3, 1, 2)))


KINDS = [
    *(ThroughAFunction, OfAView, OfAPart, ChangesInALeaf, ChangesWhatALeafReturns),
    *(ByTheBatch, BySize, Random, Embedded),
]


@pytest.mark.parametrize("rules", ["default", "everywhere"])
@pytest.mark.parametrize("kind", KINDS)
def test_right_or_refused(kind: Any, rules: str) -> None:
    """Converted at alpha 0 it computes the same, at other sizes too, or it stops; or it is refused."""
    torch.manual_seed(0)
    model = kind().eval()
    numbers = kind is Embedded
    x = torch.randint(0, 7, (2, 16, 16)) if numbers else X
    try:
        made = octify.convert(model, x, alpha=0.0, rules=rules).model
    except octify.OctifyError:
        return
    for batch, size in ((2, 16), (1, 16), (3, 16), (2, 32), (5, 24)):
        shape = (batch, size, size) if numbers else (batch, 3, size, size)
        y = torch.randint(0, 7, shape) if numbers else torch.randn(shape)
        with torch.no_grad():
            torch.manual_seed(1)
            expected = model(y.clone())
            torch.manual_seed(1)
            try:
                actual = made(y.clone())
            except octify.OctifyError:  # for sizes it was not converted for
                assert (batch, size) != (2, 16)
                continue
        assert same(actual, expected), (batch, size)


@pytest.mark.parametrize("kind", [Random, Embedded, ThroughAFunction])
def test_these_are_converted(kind: Any) -> None:
    x = torch.randint(0, 7, (2, 16, 16)) if kind is Embedded else X
    assert octify.convert(kind().eval(), x, rules="everywhere").report.totals.converted == 2


def test_the_users_model_is_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        Random(), nn.BatchNorm2d(8), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8).eval())
    )
    model[1].eval()
    calls: list[str] = []
    handle = model[2].register_forward_hook(lambda module, args, y: None)
    model[0].note = calls
    state = copy.deepcopy(model.state_dict())
    modes = {path: module.training for path, module in model.named_modules()}
    hooks = {path: dict(module._forward_hooks) for path, module in model.named_modules()}
    names = {path: set(vars(module)) for path, module in model.named_modules()}
    generators = torch.get_rng_state()
    octify.convert(model, X, rules="everywhere")
    assert torch.equal(torch.get_rng_state(), generators)
    assert modes == {path: module.training for path, module in model.named_modules()}
    assert hooks == {path: dict(module._forward_hooks) for path, module in model.named_modules()}
    assert names == {path: set(vars(module)) for path, module in model.named_modules()}
    assert all(same(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and calls == []
    assert "training" not in vars(nn.Module)  # nothing is left behind of what noted the modes
    handle.remove()
