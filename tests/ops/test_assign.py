"""Assignments to parts of maps, and tensors of one value, as the maps that a model fills or starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.report.report import Report
from tests.oracle import EXACT, assert_same, noise

Act = Callable[[Any, Tensor], Tensor]


def assigned(index: Any, value: Any) -> Act:
    def act(net: Any, y: Tensor) -> Tensor:
        y[index] = value(y) if callable(value) else value
        return y

    return act


def filled(make: Callable[[Tensor], Tensor]) -> Act:
    def act(net: Any, y: Tensor) -> Tensor:
        z = make(y)
        z[:, :8], z[:, 8:] = net.side(y), y
        return z[:, ::2]

    return act


def cell(start: Callable[[Tensor], Tensor]) -> Act:
    """A convolutional LSTM's step, twice."""

    def act(net: Any, y: Tensor) -> Tensor:
        hidden = start(y)
        state = hidden.clone()
        for _ in range(2):
            into, forget, out, new = net.gates(torch.cat([y, hidden], 1)).chunk(4, 1)
            state = forget.sigmoid() * state + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * state.tanh()
        return hidden

    return act


ALL = slice(None)
OCTAVE: dict[str, Act] = {
    "channels of a number": assigned((ALL, slice(2, 6)), 0.5),
    "every second channel": assigned((ALL, slice(1, None, 2)), 0),
    "channels by number": assigned((ALL, [5, 0, 2]), -1.0),
    "one channel": assigned((ALL, 3), 2.0),
    "everything": assigned(..., 0.25),
    "blocks of positions": assigned((ALL, ALL, slice(2, 6), slice(4, None)), 0.5),
    "a map": assigned((ALL, slice(2, 6)), lambda y: y[:, :4] * 2),
    "a map, spread": assigned((ALL, slice(0, None, 2)), lambda y: y[:, 4:] * 2),
    "filled zeros": filled(lambda y: torch.zeros(y.shape[0], 16, *y.shape[2:], dtype=y.dtype)),
    "filled new_empty": filled(lambda y: y.new_empty(y.shape[0], 16, *y.shape[2:])),
    "cell from torch.zeros": cell(
        lambda y: torch.zeros(y.size(0), 8, y.size(2), y.size(3), dtype=y.dtype, device=y.device)
    ),
    "cell from new_zeros": cell(lambda y: y.new_zeros((y.shape[0], 8, *y.shape[-2:]))),
    "cell from full": cell(lambda y: torch.full((y.shape[0], 8, *y.shape[-2:]), 0.5).to(y)),
}
REFUSED: dict[str, Act] = {
    "parts of blocks": assigned((ALL, ALL, slice(1, 5)), 0.5),
    "one row": assigned((ALL, ALL, 2), 0.5),
    "a sample": assigned(0, 0.5),
    "a map to a window": assigned((ALL, ALL, slice(0, 4)), lambda y: y[:, :, 4:8]),
    "a channel spread over others": assigned((ALL, slice(0, 4)), lambda y: y[:, :1] * 2),
    "by values": assigned((ALL, [1, 1]), 2.0),
}


class Net(nn.Module):
    def __init__(self, act: Act) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.side, self.gates = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self, torch.relu(self.first(x))))


def check(act: Act) -> Report:
    torch.manual_seed(0)
    model, x = Net(act).double().eval(), noise(2, 3, 8, 8)
    result = octify.convert(model, x, rules="everywhere", kernels="exact")
    reference = octify.reference(model, result.plan, x)
    for other in (x, noise(3, 3, 12, 16)):
        with torch.no_grad():
            assert_same(result.model(other), reference(other), EXACT)
    return result.report


@pytest.mark.parametrize("name", OCTAVE)
def test_it_has_an_octave_form(name: str) -> None:
    merges = [row.reason for row in check(OCTAVE[name]).boundaries if row.kind == "merge"]
    assert merges == ["it is an output of the model"]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_reason(name: str) -> None:
    assert any(row.reason.startswith("it assigns") for row in check(REFUSED[name]).boundaries)


def test_a_constant_may_have_its_channels_anywhere() -> None:
    """It decides no roles: beside a map with its channels last it is one."""

    def act(net: Any, y: Tensor) -> Tensor:
        last = y.permute(0, 2, 3, 1)
        sums = torch.zeros(last.shape, dtype=y.dtype) + last
        return torch.cat([sums, torch.ones(last.shape, dtype=y.dtype)], -1)[..., ::2].permute(0, 3, 1, 2)

    merges = [row.reason for row in check(act).boundaries if row.kind == "merge"]
    assert merges == ["it is an output of the model"]
