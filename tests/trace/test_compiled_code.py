"""Compiled code that asks what a proxy is gets no false answer: it would read memory that is no tensor's."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import octify
from octify.errors import OctifyError
from octify.trace import trace
from octify.trace.noise import same

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s * (1 + x * (1 - s)))


class Rounded(torch.autograd.Function):
    """Rounding whose gradient is passed straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def scaled(x: Tensor, scale: float = 2.0) -> Tensor:
    if scale > 1.0:
        x = torch.relu(x) * scale
    return x


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # models use it all the same
    scripted: Any = torch.jit.script(scaled)
    recorded: Any = torch.jit.trace(torch.relu, torch.ones(1))


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "function": lambda net, y: Swish.apply(y),
    "straight through": lambda net, y: Rounded.apply(y),
    "checkpoint": lambda net, y: checkpoint(net.b, y, use_reentrant=False),
    "reentrant checkpoint": lambda net, y: checkpoint(net.b, y, use_reentrant=True),
    "checkpoints": lambda net, y: checkpoint_sequential([net.b, net.b], 2, y, use_reentrant=True),
    "scripted": lambda net, y: scripted(y),
    "scripted, keyword": lambda net, y: scripted(x=y, scale=0.5),
    "requires_grad_": lambda net, y: y.detach().requires_grad_(),
    "parameter": lambda net, y: nn.Parameter(y),
    "sparse": lambda net, y: y.to_sparse().to_dense(),
}
# These read a tensor's memory, or make another object of it: no proxy will do.
REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "dlpack": lambda net, y: torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(y)),
    "numpy": lambda net, y: torch.from_numpy(y.detach().numpy() * 2),
    "nested": lambda net, y: torch.nested.nested_tensor([y[0], y[1]]).to_padded_tensor(0.0),
    "subclass": lambda net, y: Tensor._make_subclass(Tensor, y),
    "fork": lambda net, y: torch.jit.wait(torch.jit.fork(torch.relu, y)),
    "traced": lambda net, y: recorded(y),
}


class Calls(nn.Module):
    """``asks``: what a value is, so that it must be known while tracing."""

    def __init__(self, call: Any, *, asks: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.call = call
        self.asks = asks

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if self.asks and not isinstance(y, Tensor):
            return y
        return self.b(self.call(self, y))


def made(call: Any, *, asks: bool) -> Calls:
    torch.manual_seed(0)
    return Calls(call, asks=asks).eval()


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_such_calls_are_traced(name: str, asks: bool) -> None:
    model = made(CALLS[name], asks=asks)
    traced = trace(model, X)
    assert (traced.parts, traced.opaque) == (None, ())
    converted = octify.convert(model, X, alpha=0.0).model
    for x in (X, X[:1].flip(2), torch.cat([X, X], 3)):
        with torch.no_grad():
            assert same(model(x.clone()), converted(x.clone()))


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_an_error_or_right(name: str, asks: bool) -> None:
    model = made(REFUSED[name], asks=asks)
    try:
        converted = octify.convert(model, X, alpha=0.0).model
    except OctifyError:
        return
    with torch.no_grad():
        assert same(model(X), converted(X))


def test_isinstance_is_put_back() -> None:
    before = isinstance
    trace(made(CALLS["scripted"], asks=True), X)
    assert isinstance is before
    assert inspect.isbuiltin(isinstance)


@pytest.mark.parametrize("asks", [False, True])
def test_a_backward_that_is_lost_is_told(asks: bool) -> None:
    told = {}
    for name in ("function", "straight through", "scripted", "checkpoint"):
        report = octify.convert(made(CALLS[name], asks=asks), X, alpha=0.5).report
        told[name] = [each for each in report.warnings if "in training" in each]
    (sentence,) = told.pop("straight through")
    assert "Rounded" in sentence and "a.weight" in sentence and "b.weight" not in sentence
    assert not any(told.values())
