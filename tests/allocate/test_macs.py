"""MACs of plans without a rewrite are those that a report counts on the rewritten graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify.allocate.plans as plans_module
import octify.passes.rewrite as rewrite_module
from octify.allocate.plans import Plans
from octify.passes.rewrite import rewrite
from octify.planning.ruleset import load_rules
from octify.trace import trace


class Drawn(nn.Module):
    """Two convolutions, a drawn one between octave values, a 3x3 residual and a linear end."""

    def __init__(self, drawn: nn.Module) -> None:
        super().__init__()
        self.stem, self.wide, self.drawn = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1), drawn
        self.mix, self.end, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.drawn(torch.relu(self.wide(self.stem(x)))))
        return self.head(self.end(x + self.mix(x)).mean((2, 3)))


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Module:
    kernel, stride = draw(st.sampled_from([1, 2, 3, 5])), draw(st.sampled_from([1, 2]))
    groups = draw(st.sampled_from([1, 2, 4, 16]))
    padding, dilation = draw(st.integers(0, kernel // 2)), draw(st.sampled_from([1, 1, 2]))
    if draw(st.booleans()):
        more = draw(st.integers(0, stride - 1))
        return nn.ConvTranspose2d(16, 16, kernel, stride, padding, more, groups)
    mode = draw(st.sampled_from(["zeros", "replicate"]))
    return nn.Conv2d(16, 16, kernel, stride, padding, dilation, groups, padding_mode=mode)


@given(
    convolutions(),
    st.sampled_from([0.25, 0.4, 0.5, 0.75, 1.0]),
    st.integers(13, 22),
    st.sampled_from(["paper", "exact"]),
    st.sampled_from(["full", "spatial", "high-to-low"]),
)
def test_macs_are_those_of_the_rewritten_graph(
    drawn: nn.Module, alpha: float, size: int, kernels: Any, exchange: Any
) -> None:
    traced = trace(Drawn(drawn).eval(), torch.zeros(2, 3, size, size + 3))
    plans = Plans(traced, _rules(exchange), kernels, ())
    plan = plans.uniform(alpha)
    assert plans.ratio(plan) == plans.true_ratio(rewrite(traced, plan))


def _rules(exchange: str) -> Any:
    from dataclasses import replace

    rules = load_rules("everywhere")
    return replace(rules, settings=rules.settings.model_copy(update={"exchange": exchange}))


def test_a_search_rewrites_nothing_and_couples_a_dense_choice_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import octify.planning.policies as policies

    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    traced = trace(net.eval(), torch.zeros(1, 3, 24, 24))
    coupled: list[object] = []
    couple = policies.couple

    def counted(*args: Any) -> Any:
        coupled.append(args[1:])
        return couple(*args)

    def never(*args: Any) -> Any:
        raise AssertionError("a rewrite only to count")

    monkeypatch.setattr(policies, "couple", counted)
    monkeypatch.setattr(rewrite_module, "rewrite", never)
    monkeypatch.setattr(plans_module, "measure_nodes", never)
    assert Plans(traced, load_rules("everywhere"), "paper", ()).uniform_below(0.7) is not None
    assert len(coupled) <= 2
