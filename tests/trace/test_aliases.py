"""What is changed in place is changed under each of its names."""

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

SAME: dict[str, Any] = {
    "Identity": nn.Identity(),
    "Dropout": nn.Dropout(),
    "Dropout1d": nn.Sequential(nn.Dropout2d(), nn.Identity()),
    "Dropout2d": nn.Dropout2d(),
    "AlphaDropout": nn.AlphaDropout(),
    "FeatureAlphaDropout": nn.FeatureAlphaDropout(),
    "no layer": nn.Sequential(),
    "F.dropout": lambda x: F.dropout(x, 0.5, False),
}
MAYBE: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "to": lambda x: x.to(torch.float64),
    "double": lambda x: x.double(),
    "type_as": lambda x: x.type_as(x),
    "view": lambda x: x.view(x.shape),
    "reshape": lambda x: x.reshape(x.shape),
    "expand_as": lambda x: x.expand_as(x),
    "item of all": lambda x: x[:],
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "narrow": lambda x: x.narrow(1, 0, 8),
    "chunk": lambda x: x.chunk(1, 1)[0],
    "broadcast": lambda x: torch.broadcast_tensors(x, x)[0],
    "positive": torch.positive,
    "real": torch.real,
}


class Statement(nn.Module):
    """The alias is changed by a statement whose result nobody reads; then the original name is read."""

    def __init__(self, alias: Any) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.alias = alias

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.alias(y)
        z.mul_(2).relu_()
        return self.last(y)


class Before(Statement):
    """The original name is changed; then the alias is read."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.alias(y)
        F.relu(y, inplace=True)
        return self.last(z)


class Out(Statement):
    """The result is written over an operand."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.alias(y)
        torch.add(y, 1, out=y)
        return self.last(z)


@torch.no_grad()
def check(model: nn.Module) -> None:
    model, x = model.double().eval(), noise(2, 3, 8, 8)
    dense = octify.convert(model, x, 0.0).model
    assert_same(dense(x), model(x), EXACT)
    made = octify.convert(model, x, rules="everywhere", kernels="exact")
    assert_same(made.model(x), octify.reference(model, made.plan, x)(x), EXACT)


@pytest.mark.parametrize("kind", [Statement, Before, Out])
@pytest.mark.parametrize("name", SAME)
def test_a_change_is_seen_under_every_name_of_a_tensor(kind: type[Statement], name: str) -> None:
    check(kind(SAME[name]))


@pytest.mark.parametrize("kind", [Statement, Before, Out])
@pytest.mark.parametrize("name", MAYBE)
def test_a_change_under_a_name_that_may_be_a_copy_is_right_or_refused(
    kind: type[Statement], name: str
) -> None:
    try:
        check(kind(MAYBE[name]))
    except OctifyError as error:
        assert "in place" in str(error)
