"""``exchange = "spatial"`` is left to convolutions between which high and low channels still meet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from octify.planning.meeting import APART, Link, never_meeting
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace


def link(path: str, into: str, out: str, apart: bool = False) -> Link:
    """Sets are letters, ``-`` a dense side."""
    sides = (frozenset(ord(c) for c in side if c != "-") for side in (into, out))
    return Link(path, *sides, apart)


BOTTLENECK = (
    link("stem", "-", "s"),
    link("squeeze", "s", "a", True),
    link("3x3", "a", "b"),
    link("expand", "b", "s", True),
    link("next", "s", "c", True),
    link("3x3.2", "c", "d"),
    link("expand.2", "d", "t", True),
    link("shortcut", "s", "t", True),
    link("head", "t", "-"),
)
INVERTED = (
    link("stem", "-", "s"),
    link("expand", "s", "a", True),
    link("project", "a", "s", True),
    link("expand.2", "s", "b", True),
    link("project.2", "b", "t", True),
    link("expand.3", "t", "c", True),
    link("project.3", "c", "t", True),
    link("head", "t", "-"),
)


def test_a_bottleneck_may_leave_out_the_exchange_of_its_1x1_convolutions_and_shortcuts() -> None:
    assert never_meeting(BOTTLENECK) == set()
    without = [each for each in BOTTLENECK if each.path != "3x3.2"]
    assert never_meeting(without) == {"expand.2"}


def test_an_inverted_residual_may_not() -> None:
    assert never_meeting(INVERTED) == {each.path for each in INVERTED if each.apart}


def test_one_that_exchanges_serves_its_neighbours() -> None:
    some = [replace(each, apart=each.apart and not each.path.startswith("expand")) for each in INVERTED]
    assert never_meeting(some) == set()


SETS = st.sets(st.integers(0, 5), max_size=2).map(frozenset)


@given(st.lists(st.tuples(SETS, SETS, st.booleans()), max_size=8))
def test_refusing_is_enough(drawn: list[tuple[frozenset[int], frozenset[int], bool]]) -> None:
    """What is refused was asked for; once it exchanges, nothing else is refused."""
    links = [Link(str(i), a, b, apart and bool(a and b)) for i, (a, b, apart) in enumerate(drawn)]
    refused = never_meeting(links)
    assert refused <= {each.path for each in links if each.apart}
    assert (
        never_meeting([replace(each, apart=each.apart and each.path not in refused) for each in links])
        == set()
    )


@pytest.mark.parametrize(
    ("name", "rules"),
    [("mobilenet_v2", "default"), ("mobilenet_v2", "everywhere"), ("resnet50", "default")],
)
def test_networks(name: str, rules: str) -> None:
    """Inverted residuals keep their exchange and say why; bottlenecks leave it out."""
    traced = trace(getattr(torchvision.models, name)(weights=None).eval(), torch.zeros(1, 3, 224, 224))
    found = load_rules(rules)
    spatial = replace(found, settings=found.settings.model_copy(update={"exchange": "spatial"}))
    plan = make_plan(traced, spatial, 0.5)
    apart = {conv.path for conv in plan.convs if conv.exchange == "spatial"}
    told = {conv.path for conv in plan.convs if conv.reason == APART}
    assert not apart & told
    if name == "resnet50":
        assert {"layer1.0.conv3", "layer1.1.conv1", "layer2.0.downsample.0"} <= apart
        assert not told
    else:
        assert not apart
        assert {"features.3.conv.0.0", "features.3.conv.2"} <= told
        assert plan == replace(
            make_plan(traced, found, 0.5),
            convs=tuple(
                replace(conv, reason=APART) if conv.path in told else conv
                for conv in make_plan(traced, found, 0.5).convs
            ),
        )
