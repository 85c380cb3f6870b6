"""Rules about widths: ``least_channels`` of a branch, and convolutions that widen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from octify.planning.planner import make_plan
from octify.planning.ruleset import Match, load_rules
from octify.trace import trace
from tests.planning.test_ruleset import FACTS

WIDTHS = (16, 24, 64, 96, 64)


def net() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((3, *WIDTHS), (*WIDTHS, 8), strict=True):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers).eval()


TRACED = trace(net(), torch.zeros(1, 3, 16, 16))


@given(
    st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0]),
    st.sampled_from([1, 8, 16, 32, 64]),
    st.sampled_from([1, 8, 16]),
)
def test_no_branch_is_narrower(alpha: float, least: int, step: int) -> None:
    """Every octave side has at least so many low and high channels, or no high ones; others say why not."""
    found = load_rules("everywhere")
    free = replace(found, settings=found.settings.model_copy(update={"round_to": step}))
    rules = replace(free, settings=free.settings.model_copy(update={"least_channels": least}))
    plan, before = make_plan(TRACED, rules, alpha), make_plan(TRACED, free, alpha)
    for conv in plan.convs:
        for channels, low in ((conv.in_channels, conv.low_in), (conv.out_channels, conv.low_out)):
            assert not low or len(low) >= least
            assert not low or channels == len(low) or channels - len(low) >= least
        was = len(before.conv(conv.path).low_out)
        thin = min(n for n in (was, conv.out_channels - was) if n) < least if was else False
        if thin:
            assert f"under {least} gain no time" in (conv.reason or "")
    if least == 1:
        assert plan == before


@pytest.mark.parametrize(("inputs", "outputs", "widening"), [(8, 16, True), (16, 8, False), (8, 8, False)])
def test_widening(inputs: int, outputs: int, widening: bool) -> None:
    facts = replace(FACTS, in_channels=inputs, out_channels=outputs)
    assert Match(widening=True).holds(facts) == widening
    assert Match(widening=False).holds(facts) != widening
