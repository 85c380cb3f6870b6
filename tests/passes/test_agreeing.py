"""What a plan hands along is what ``resolve`` would work out again, and a conversion couples no more often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.ops.walk import Walk
from octify.passes.resolve import resolve
from octify.passes.rewrite import rewrite
from octify.planning.planner import planned
from octify.planning.ruleset import load_rules
from octify.trace import trace


class Residual(nn.Module):
    """A sum, a grouped and a depthwise convolution, a softmax that refuses, and a head."""

    def __init__(self, groups: int, stride: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1, groups=groups)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.down = nn.Conv2d(16, 24, 3, stride, 1)
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.depthwise(self.first(x).relu())
        return self.head(self.down(x).relu()).softmax(1)


@settings(deadline=None, max_examples=40)
@given(
    groups=st.sampled_from([1, 2, 4]),
    stride=st.sampled_from([1, 2]),
    alpha=st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0]),
    rules=st.sampled_from(["default", "everywhere", "paper", "fast"]),
    size=st.sampled_from([16, 17, 32]),
    exclude=st.sampled_from([(), ("first",), ("down",)]),
)
def test_the_layout_of_planning_is_that_of_the_plan(
    groups: int, stride: int, alpha: float, rules: str, size: int, exclude: tuple[str, ...]
) -> None:
    x = torch.randn(1, 3, size, size)
    traced = trace(Residual(groups, stride).eval(), x)
    chosen = planned(traced, load_rules(rules), alpha, "exact", exclude)
    if chosen.resolved is None:
        return
    again = resolve(traced, chosen.plan)
    for node in traced.module.graph.nodes:
        ours, theirs = chosen.resolved.mask(node.name), again.mask(node.name)
        assert (ours is None) == (theirs is None), node.name
        assert ours is None or np.array_equal(ours, theirs), node.name
    one, other = rewrite(traced, chosen.plan, chosen.resolved), rewrite(traced, chosen.plan)
    assert one.boundaries == other.boundaries
    assert one.module.code == other.module.code
    with torch.no_grad():
        assert torch.equal(one.module(x), other.module(x))


# `default` keeps the first convolution dense, which takes a coupling of its own.
@pytest.mark.parametrize(("rules", "converted", "walks"), [("everywhere", 3, 1), ("default", 2, 2)])
def test_a_conversion_couples_once_for_its_rules_and_once_for_its_plan(
    rules: str, converted: int, walks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    finish: Callable[..., Any] = Walk.finish
    monkeypatch.setattr(Walk, "finish", lambda walk: (counted.append(walk), finish(walk))[1])
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
    )
    result = octify.convert(net.eval(), torch.randn(1, 3, 32, 32), rules=rules)
    assert (result.report.totals.converted, len(counted)) == (converted, walks)
