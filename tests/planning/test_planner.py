"""The plan as data, and what the planner decides."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import octify
from octify import ConvPlan, Plan
from octify.errors import OctifyError, PlanError, RuleError
from octify.nn import OctaveConv2d
from octify.nn.groups import UnevenGroups
from octify.passes.reference import reference
from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import Match, Rule, RuleSet, Settings, load_rules
from octify.planning.uneven import spread
from octify.trace import Traced, trace
from octify.trace.facts import InputSpec
from tests.nets import Net
from tests.oracle import assert_same, noise, randomised

EVERYWHERE = load_rules("everywhere")


def conv(c_in: int, c_out: int, groups: int = 1, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups)


def chain(*convs: nn.Module) -> nn.Module:
    return randomised(nn.Sequential(*convs))


def traced_on(model: nn.Module, channels: int = 3, size: int = 16) -> Traced:
    return trace(model, noise(1, channels, size, size))


def rules(*drawn: Rule, **settings: Any) -> RuleSet:
    return RuleSet("drawn", "", Settings(**settings), drawn, Path("drawn.toml"))


def low_counts(plan: Plan) -> list[tuple[int, int]]:
    return [(len(each.low_in), len(each.low_out)) for each in plan.convs]


def reasons(plan: Plan) -> dict[str, str | None]:
    return {each.path: each.reason for each in plan.convs}


def assert_exact(traced: Traced, plan: Plan, channels: int = 3, size: int = 16) -> nn.Module:
    """The rewritten net equals the projected reference; returns it."""
    module = rewrite(traced, plan).module
    x = noise(2, channels, size, size, seed=1)
    with torch.no_grad():
        assert_same(module(x), reference(traced, plan)(x))
    return module


# The plan as data.


@st.composite
def conv_plans(draw: st.DrawFn) -> ConvPlan:
    sides = [draw(st.integers(1, 9)) for _ in range(2)]
    low = [tuple(sorted(draw(st.sets(st.integers(0, n - 1))))) for n in sides]
    kernels = draw(st.sampled_from(["paper", "exact"]))
    return ConvPlan(draw(st.text()), *sides, *low, kernels, draw(st.none() | st.text()))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    inputs = st.builds(
        InputSpec, st.lists(st.integers(0, 9)).map(tuple), st.sampled_from(["float32", "int64"])
    )
    return Plan(
        draw(st.floats(0, 1)),
        draw(st.text()),
        draw(st.sampled_from(["paper", "exact"])),
        tuple(draw(st.lists(inputs, max_size=2))),
        tuple(draw(st.lists(conv_plans(), max_size=4, unique_by=lambda each: each.path))),
    )


@given(plans())
def test_json_round_trip(plan: Plan) -> None:
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_saved_plan_is_the_plan(tmp_path: Path) -> None:
    plan = make_plan(traced_on(chain(conv(3, 8), conv(8, 8))), EVERYWHERE)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_edited_channels_may_stand_in_any_order() -> None:
    data = make_plan(traced_on(chain(conv(3, 8), conv(8, 8))), EVERYWHERE).to_dict()
    data["convolutions"][0]["low_out"] = [6, 1, 3]
    assert Plan.from_dict(data).conv("0").low_out == (1, 3, 6)


def changed(data: dict[str, Any], *keys: Any, value: Any) -> dict[str, Any]:
    """``data`` with one entry another, or gone where the value is ``...``."""
    inner: Any = data
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return data


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("format",), 2, "format"),
        (("alpha",), 1.5, "alpha"),
        (("alpha",), float("nan"), "alpha"),
        (("rules",), ..., "rules: Field required"),
        (("kernels",), "fast", "kernels"),
        (("inputs", 0, "shape"), "1x3", "inputs.0.shape"),
        (("convolutions", 1, "low_out"), [0, 8], "1: low_out is not a set of channels"),
        (("convolutions", 1, "low_out"), [-1], "1: low_out is not a set of channels"),
        (("convolutions", 1, "low_in"), [0, 0], "1: low_in is not a set of channels"),
        (("convolutions", 1, "low_in"), ["0"], "convolutions.1.low_in.0"),
        (("convolutions", 1, "low_in"), None, "convolutions.1.low_in"),
        (("convolutions", 1, "lowin"), [0], "convolutions.1.lowin"),
        (("convolutions", 0, "kernels"), "fast", "convolutions.0.kernels"),
        (("convolutions", 0, "in_channels"), 0, "convolutions.0.in_channels"),
        (("convolutions", 1, "path"), "0", "0 has 2 entries"),
    ],
)
def test_mistakes_name_the_entry(tmp_path: Path, keys: tuple[Any, ...], value: Any, told: str) -> None:
    data = make_plan(traced_on(chain(conv(3, 8), conv(8, 8))), EVERYWHERE).to_dict()
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(changed(data, *keys, value=value)))
    with pytest.raises(PlanError) as caught:
        Plan.load(file)
    assert told in str(caught.value)
    assert caught.value.where == str(file)


@pytest.mark.parametrize(("text", "told"), [("[]", "the document"), ("{", "not JSON"), ("", "not JSON")])
def test_documents_that_are_no_plan(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=told):
        Plan.load(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.load(tmp_path / "none.json")


# A plan on a model.


def edited(plan: Plan, path: str, **changes: Any) -> Plan:
    convs = tuple(replace(each, **changes) if each.path == path else each for each in plan.convs)
    return replace(plan, convs=convs)


def residual() -> nn.Module:
    """``stem``, then ``a`` and ``b`` beside an identity, then ``head``: stem and b are tied."""
    return randomised(
        Net(
            lambda net, x: net.head((y := net.stem(x)) + net.b(torch.relu(net.a(y)))),
            stem=conv(3, 8),
            a=conv(8, 12),
            b=conv(12, 8),
            head=conv(8, 4),
        )
    )


def test_tied_convolutions_must_agree() -> None:
    traced = traced_on(residual())
    plan = make_plan(traced, EVERYWHERE, 0.5, "exact")
    assert plan.conv("stem").low_out == plan.conv("b").low_out == plan.conv("a").low_in == (4, 5, 6, 7)
    with pytest.raises(PlanError) as caught:
        rewrite(traced, edited(plan, "b", low_out=(0, 1)))
    assert caught.value.what.startswith(("b:", "stem:"))
    assert "residual" in str(caught.value.why)
    together = edited(edited(plan, "b", low_out=(0, 5)), "stem", low_out=(0, 5))
    assert_exact(traced, edited(edited(together, "a", low_in=(0, 5)), "head", low_in=(0, 5)))


def test_a_reader_may_ask_for_another_layout() -> None:
    """A dense one, which a merge gives it; other low channels than its input has contradict the reference."""
    traced = traced_on(chain(conv(3, 8), conv(8, 8), conv(8, 4)))
    plan = make_plan(traced, EVERYWHERE, 0.5, "exact")
    rewritten = rewrite(traced, edited(plan, "1", low_in=()))
    assert [each.kind for each in rewritten.boundaries] == ["merge", "merge"]
    with pytest.raises(PlanError, match="not those of its input"):
        rewrite(traced, edited(plan, "1", low_in=(0, 6)))


def test_plans_of_other_models_are_told_by_the_convolution() -> None:
    traced = traced_on(chain(conv(3, 8), conv(8, 8)))
    plan = make_plan(traced, EVERYWHERE)
    with pytest.raises(PlanError, match="no entry for 1"):
        rewrite(traced, replace(plan, convs=plan.convs[:1]))
    other = make_plan(traced_on(chain(conv(3, 8), conv(8, 12))), EVERYWHERE)
    with pytest.raises(PlanError) as caught:
        rewrite(traced, other)
    assert caught.value.where == "1"
    assert "8 to 12" in str(caught.value.why)
    longer = make_plan(traced_on(chain(conv(3, 8), conv(8, 8), conv(8, 8))), EVERYWHERE)
    with pytest.raises(PlanError) as caught:
        rewrite(traced, longer)
    assert caught.value.where == "2"


# What the planner decides.


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_its_range(alpha: float) -> None:
    with pytest.raises(OctifyError, match="alpha"):
        make_plan(traced_on(chain(conv(3, 8))), EVERYWHERE, alpha)


def test_alpha_0_converts_nothing() -> None:
    plan = make_plan(traced_on(residual()), EVERYWHERE, 0)
    assert not any(each.converted for each in plan.convs)
    assert set(reasons(plan).values()) == {"alpha is 0"}


@pytest.mark.parametrize("length", [2, 3, 4, 5, 9])
def test_alpha_1_goes_through_a_chain(length: int) -> None:
    """In its middle each map alone saves no MACs, since both of its neighbours are low: it saves memory."""
    traced = traced_on(chain(conv(3, 8), *(conv(8, 8) for _ in range(length - 1))))
    plan = make_plan(traced, EVERYWHERE, 1, "exact")
    # The last output would have to be merged, and costs its convolution a quarter either way.
    assert low_counts(plan) == [(0, 8), *[(8, 8)] * (length - 2), (8, 0)]
    assert plan.conv(str(length - 1)).reason == "octave channels here would save no MACs"
    assert_exact(traced, plan)


def test_exclude() -> None:
    traced = traced_on(residual())
    plan = make_plan(traced, EVERYWHERE, exclude=["a", "he*"])
    assert not plan.conv("a").converted
    assert not plan.conv("head").converted
    assert reasons(plan)["a"] == "excluded by a"
    assert reasons(plan)["head"] == "excluded by he*"
    with pytest.raises(RuleError, match=r"nothing\.\*"):
        make_plan(traced, EVERYWHERE, exclude=["a", "nothing.*"])


def with_split(price: float) -> Plan:
    """The stem is kept dense, and an identity brings it to ``b``'s output: octave there needs a split."""
    stem = Rule(match=Match(path="stem"), output="dense", reason="it is the stem")
    return make_plan(traced_on(residual()), rules(stem, boundary_macs_per_element=price))


def test_boundaries_are_weighed_against_macs() -> None:
    """At alpha .5 the sum before ``head`` saves 270 MACs a position; splitting 8 channels costs 8 prices.

    With ``1 - 3/4 (i + o - i o)``: b, which reads an octave map anyhow, goes from .625 to .4375 of its
    12 * 8 * 9 MACs, head, whose output is not worth its merge, from 1 to .625 of 8 * 4 * 9.
    """
    assert with_split(33).conv("b").low_out == with_split(33).conv("head").low_in == (4, 5, 6, 7)
    dense = with_split(34)
    assert not dense.conv("b").low_out
    assert dense.conv("b").low_in  # what a wrote is still octave
    assert not dense.conv("head").low_in
    assert (
        reasons(dense)["b"]
        == "octave channels here would save fewer MACs than their split and merge layers cost"
    )
    assert reasons(dense)["stem"] == "it is the stem"


@pytest.mark.parametrize("price", [0, 1, 8, 30, 60, 1000])
def test_boundaries_never_cost_more_than_is_saved(price: float) -> None:
    stem = Rule(match=Match(path="stem"), output="dense", reason="it is the stem")
    traced = traced_on(residual())
    plan = make_plan(traced, rules(stem, boundary_macs_per_element=price))
    rewritten = rewrite(traced, plan)
    report = octify.convert(residual(), noise(1, 3, 16, 16), plan=plan).report
    elements = sum(torch.Size(each.shape).numel() for each in rewritten.boundaries)
    assert report.totals.macs_before - report.totals.macs_after >= price * elements


def test_the_smallest_alpha_of_tied_convolutions_counts() -> None:
    small = Rule(match=Match(path="b"), alpha=0.25)
    plan = make_plan(traced_on(residual()), rules(small), 0.5)
    assert low_counts(plan) == [(0, 2), (2, 6), (6, 2), (2, 2)]


def test_reasons_tell_rounding_from_cost() -> None:
    plan = make_plan(traced_on(chain(conv(3, 4), conv(4, 40), conv(40, 4))), EVERYWHERE, 0.125)
    assert reasons(plan)["0"] == "alpha 0.125 of 4 channels rounds to no low channel"
    assert low_counts(plan) == [(0, 0), (0, 5), (5, 0)]
    grouped = make_plan(traced_on(chain(conv(3, 16), conv(16, 16, 4))), rules(), 0.125)
    assert reasons(grouped)["0"] == "alpha 0.125 of each part of 4 channels rounds to no low channel"


def test_one_sample_per_channel_has_no_resolution() -> None:
    """Squeeze-and-excitation: the hidden layer is left with its reason, the gate follows the map."""
    net = Net(
        lambda net, x: net.last(
            (y := net.first(x)) * torch.sigmoid(net.up(torch.relu(net.down(y.mean((2, 3), True)))))
        ),
        first=conv(3, 8),
        down=conv(8, 4, kernel=1),
        up=conv(4, 8, kernel=1),
        last=conv(8, 8),
    )
    plan = make_plan(traced_on(randomised(net)), EVERYWHERE)
    assert reasons(plan)["down"] == "it has one sample per channel: there is no resolution to halve"
    assert plan.conv("up").low_out == plan.conv("first").low_out == (4, 5, 6, 7)


# Groups.


@given(st.integers(1, 40), st.data())
def test_spread_is_fair_and_independent(groups: int, data: st.DataObject) -> None:
    """All low channels are given out, no group gets two more than another, extras overlap as if independent."""
    into = spread(data.draw(st.integers(0, 3 * groups)), groups, [0] * groups)
    low = data.draw(st.integers(0, 3 * groups))
    out = spread(low, groups, into)
    assert sum(out) == low
    assert max(out) - min(out) <= 1
    extra_in, extra_out = sum(into) % groups, low % groups
    both = sum(i > min(into) and o > min(out) for i, o in zip(into, out, strict=True))
    assert both == round(extra_in * extra_out / groups)
    assert len(list(groupby(zip(into, out, strict=True)))) <= 4


def test_spread_of_the_papers_resnext() -> None:
    """Of 32 groups 16 have an extra: 8 in both, 8 in either, 8 in none."""
    into = spread(16, 32, [0] * 32)
    assert into == (*[0] * 16, *[1] * 16)
    assert spread(16, 32, into) == (*[0] * 8, *[1] * 8, *[0] * 8, *[1] * 8)


def grouped_chain(groups: int = 8, per: int = 4) -> nn.Module:
    """Two grouped convolutions behind each other, and dense ones around them."""
    c = groups * per
    layers = (conv(3, c), conv(c, c, groups), nn.BatchNorm2d(c), nn.ReLU(), conv(c, c, groups, 2), conv(c, 4))
    return chain(*layers)


@pytest.mark.parametrize("alpha", [0.125, 0.2, 0.25, 0.4, 0.6, 0.9])
def test_uneven_groups_are_exact_and_cost_what_the_formula_says(alpha: float) -> None:
    traced = traced_on(grouped_chain())
    plan = make_plan(traced, EVERYWHERE, alpha, "exact")
    assert {len(each.low_out) for each in plan.convs[:-1]} == {int(alpha * 32)}
    module = assert_exact(traced, plan)
    inner = module.get_submodule("1")
    assert isinstance(inner, OctaveConv2d)
    assert isinstance(inner.high_to_high, UnevenGroups) == (alpha != 0.25)
    paper = octify.convert(
        grouped_chain(), noise(1, 3, 16, 16), plan=make_plan(traced, EVERYWHERE, alpha)
    ).report
    (row,) = (row for row in paper.layers if row.path == "1")
    low, groups = int(alpha * 32), 8
    share, extra = low / 32, low % groups
    # Extras meet in a whole number of groups: up to half a group off, each with 3/4 of one kernel of 16.
    off = abs(round(extra * extra / groups) - extra * extra / groups)
    assert abs(row.macs_after / row.macs_before - (1 - 0.75 * share * (2 - share))) == pytest.approx(
        0.75 * off / 16 / groups, abs=1e-12
    )
    assert row.parameters_after == row.parameters_before


def test_uneven_groups_only_where_the_rules_ask() -> None:
    traced = traced_on(grouped_chain())
    even = make_plan(traced, rules(), 0.4)
    for each in even.convs[1:3]:
        in_group = [sum(c // 4 == g for c in each.low_out) for g in range(8)]
        assert in_group == [1] * 8
    assert len(make_plan(traced, rules(uneven_groups=True), 0.4).convs[1].low_out) == 12


def test_groups_of_a_tied_set() -> None:
    """A residual over a grouped convolution: its input and output have the same low channels."""
    net = Net(
        lambda net, x: net.head((y := net.stem(x)) + net.body(y)),
        stem=conv(3, 16),
        body=conv(16, 16, 4),
        head=conv(16, 4),
    )
    traced = traced_on(randomised(net))
    plan = make_plan(traced, EVERYWHERE, 0.4, "exact")
    assert plan.conv("body").low_in == plan.conv("body").low_out == (3, 7, 10, 11, 14, 15)
    assert_exact(traced, plan)


@given(st.data())
def test_any_low_channels_of_grouped_convolutions_can_be_planned(data: st.DataObject) -> None:
    traced = traced_on(grouped_chain(4, 3), size=8)
    low = [tuple(sorted(data.draw(st.sets(st.integers(0, 11), max_size=11)))) for _ in range(3)]
    sides = [(), *low, ()]
    convs = tuple(
        replace(each, low_in=sides[i], low_out=sides[i + 1], reason=None)
        for i, each in enumerate(make_plan(traced, EVERYWHERE, 0, "exact").convs)
    )
    assert_exact(traced, replace(make_plan(traced, EVERYWHERE, 0, "exact"), convs=convs), size=8)


def test_low_channels_scattered_over_many_groups_name_the_convolution() -> None:
    traced = traced_on(grouped_chain(12, 4))
    plan = make_plan(traced, EVERYWHERE, 0.25)
    scattered = edited(edited(plan, "0", low_out=tuple(range(0, 48, 8))), "1", low_in=tuple(range(0, 48, 8)))
    with pytest.raises(PlanError, match="more than 8 runs") as caught:
        rewrite(traced, scattered)
    assert caught.value.where == "1"


def test_uneven_groups_train_save_and_load(tmp_path: Path) -> None:
    model, x = grouped_chain(4, 4).float().train(), torch.randn(2, 3, 16, 16)
    result = octify.convert(model, x, 0.4, rules="everywhere")
    assert any(isinstance(module, UnevenGroups) for module in result.model.modules())
    result.model(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in result.model.parameters())
    result.save(tmp_path / "saved")
    again = octify.load(tmp_path / "saved", grouped_chain(4, 4).float())
    assert torch.equal(again.eval()(x), result.model.eval()(x))


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["paper", "exact"])
def test_uneven_groups_export(tmp_path: Path, kernels: Any) -> None:
    """Any batch, BatchNorm folded; the export compares onnxruntime with PyTorch itself."""
    x = torch.randn(2, 3, 16, 16)
    result = octify.convert(grouped_chain(4, 4).float(), x, 0.4, rules="everywhere", kernels=kernels)
    exported = octify.export_onnx(result.model, x, tmp_path / "model.onnx")
    # Sums of some 100 terms of size 1: float32 noise is some 1e-6.
    assert exported.max_abs_error < 1e-5


def test_what_a_neighbour_without_low_channels_makes_impossible_is_left() -> None:
    """``cut`` writes too few channels to have low ones: what ``twice`` reads first is no longer its own output."""

    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        x = torch.cat([net.cut(x[:, :2]), x[:, 2:]], 1)
        return net.last(net.twice(net.twice(x).relu()))

    torch.manual_seed(0)
    net = Net(
        forward,
        stem=nn.Conv2d(3, 8, 1),
        cut=nn.Conv2d(2, 2, 5, padding=2, groups=2),
        twice=nn.Conv2d(8, 8, 3, padding=1),
        last=nn.Conv2d(8, 32, 3, padding=1),
    )
    x = noise(1, 3, 8, 8)
    for alpha in (0.125, 0.25, 0.5, 0.75):
        result = octify.convert(net.double().eval(), x, alpha, rules="everywhere")
        again = octify.convert(net, x, plan=result.plan)
        assert again.plan == result.plan
        assert torch.equal(again.model(x), result.model(x))
