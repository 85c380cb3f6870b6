"""A plan that contradicts itself is refused, by name; one that does not is carried out exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import PlanError
from octify.plan import Plan
from tests.oracle import EXACT, assert_same, noise, randomised


class Net(nn.Module):
    """A stem, a residual pair, a depthwise and a grouped convolution, a head; ``plain`` is hooked."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.hooked = nn.Conv2d(8, 8, 1)
        self.hooked.register_forward_hook(_same)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y + self.b(self.a(y).relu())
        return self.head(self.hooked(self.grouped(self.depthwise(y)).relu()))


def _same(module: nn.Module, args: Any, result: Tensor) -> None:
    """A hook that leaves the result alone."""


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, Tensor, Plan]:
    net, x = randomised(Net()), noise(2, 3, 8, 12)
    return net, x, octify.convert(net, x, rules="everywhere", kernels="exact").plan


def edited(plan: Plan, path: str, **changes: Any) -> Plan:
    return replace(
        plan, convs=tuple(replace(conv, **changes) if conv.path == path else conv for conv in plan.convs)
    )


CONTRADICTIONS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "reads what its writer keeps high": (lambda p: edited(p, "a", low_in=(0, 1)), "a: its low input"),
    "reads less than its writer has": (lambda p: edited(p, "a", low_in=(7,)), "a: its low input"),
    "low input of a dense image": (lambda p: edited(p, "stem", low_in=(0,)), "stem: its low input"),
    "one side of a residual sum": (
        lambda p: edited(p, "b", low_out=(0, 1, 2, 3)),
        r"(?s)its low output channels contradict.*\bb\b",
    ),
    "a writer without its readers": (lambda p: edited(p, "stem", low_out=()), "a: its low input"),
    "depthwise, other outputs": (
        lambda p: edited(p, "depthwise", low_out=(0,)),
        "(?s)its low output channels contradict.*depthwise",
    ),
    "depthwise, other inputs": (lambda p: edited(p, "depthwise", low_in=(0,)), "depthwise: its low input"),
    "left by the graph": (lambda p: edited(p, "hooked", low_out=(0,)), "hooked has low channels"),
    "below the range": (lambda p: edited(p, "a", low_out=(-1,)), "low_out is not an ascending list"),
    "beyond the range": (lambda p: edited(p, "a", low_out=(3, 8)), "low_out is not an ascending list"),
    "twice": (lambda p: edited(p, "a", low_out=(3, 3)), "low_out is not an ascending list"),
    "not in order": (lambda p: edited(p, "a", low_in=(7, 6, 5, 4)), "low_in is not an ascending list"),
    "no numbers": (lambda p: edited(p, "a", low_out=("1",)), "low_out is not an ascending list"),
    "truth values": (lambda p: edited(p, "a", low_out=(True,)), "low_out is not an ascending list"),
    "kernels unknown": (lambda p: edited(p, "a", kernels="best"), "'paper', 'exact'"),
    "kernels of pooling unknown": (lambda p: replace(p, kernels="best"), "'paper', 'exact'"),
    "exchange unknown": (lambda p: edited(p, "a", exchange="none"), "'full', 'spatial', 'high-to-low'"),
    "an entry twice": (lambda p: replace(p, convs=(*p.convs, p.convs[1])), "2 entries"),
    "an entry missing": (lambda p: replace(p, convs=p.convs[:-1]), "no entry for head"),
    "an entry for what is not there": (
        lambda p: replace(p, convs=(*p.convs, replace(p.convs[-1], path="tail"))),
        "tail",
    ),
    "another number of channels": (lambda p: edited(p, "a", out_channels=9), "does not fit"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_by_name(made: tuple[nn.Module, Tensor, Plan], name: str) -> None:
    net, x, plan = made
    edit, told = CONTRADICTIONS[name]
    wrong = edit(plan)
    for carry_out in (
        lambda: octify.convert(net, x, plan=wrong),
        lambda: octify.reference(net, wrong, x),
    ):
        with pytest.raises(PlanError, match=told):
            carry_out()


CONSISTENT: dict[str, Callable[[Plan], Plan]] = {
    "as it is": lambda p: p,
    "read dense": lambda p: edited(p, "a", low_in=()),
    "grouped, read dense": lambda p: edited(p, "grouped", low_in=()),
    "depthwise, read dense": lambda p: edited(p, "depthwise", low_in=()),
    "nothing here": lambda p: edited(edited(p, "a", low_in=(), low_out=()), "b", low_in=()),
}


@pytest.mark.parametrize("name", CONSISTENT)
def test_a_plan_that_does_not_contradict_itself_is_exact(
    made: tuple[nn.Module, Tensor, Plan], name: str
) -> None:
    net, x, plan = made
    right = CONSISTENT[name](plan)
    with torch.no_grad():
        result = octify.convert(net, x, plan=right)
        assert_same(result.model(x), octify.reference(net, right, x)(x), EXACT)
