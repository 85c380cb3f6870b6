"""``exchange = "high-to-low"``: 1x1 convolutions whose high outputs read high channels alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.calibrate.fit.linear_form import blocks
from octify.nn import OctaveConv2d
from octify.passes.reference import reference
from octify.passes.rewrite import rewrite
from octify.plan import Plan
from octify.planning.convs import collect
from octify.trace import trace
from tests.oracle import EXACT, P, U, assert_same, high_of, noise, randomised
from tests.passes.test_exchange import (
    PATHS,
    RULES,
    ChannelsLast,
    Grouped,
    Net,
    assert_saved_and_loaded,
    calibrated_nearer,
    converted,
    planned,
)

ONE_WAY = RULES.replace('"spatial"', '"high-to-low"')
LIMITED = {
    Net: {"squeeze", "expand", "down"},
    ChannelsLast: {"wide", "narrow"},
    Grouped: {"mix"},
}


def limited(plan: Plan) -> set[str]:
    return {conv.path for conv in plan.convs if conv.exchange == "high-to-low"}


@given(
    st.sets(st.integers(0, 7), min_size=1, max_size=7),
    st.sets(st.integers(0, 5), min_size=1, max_size=5),
    st.sampled_from([1, 2]),
    st.sampled_from(["paper", "exact"]),
)
def test_a_layer_is_three_convolutions(
    low_in: set[int], low_out: set[int], stride: int, kernels: Any
) -> None:
    """High outputs are C of the high inputs alone, low outputs ``P C`` of the high and ``P C U`` of the low."""
    conv = randomised(nn.Conv2d(8, 6, 1, stride))
    made = OctaveConv2d.from_conv(conv, sorted(low_in), sorted(low_out), kernels, "high-to-low")
    assert [name for name in PATHS if getattr(made, name) is None] == ["low_to_high"]
    high, low = noise(2, 8 - len(low_in), 8, 12), noise(2, len(low_in), 4, 6, seed=1)
    ins, outs = high_of(8, sorted(low_in)), high_of(6, sorted(low_out))
    weight, bias = conv.weight, conv.bias
    assert isinstance(bias, Tensor)
    y_high, y_low = made(high, low)
    assert_same(y_high, F.conv2d(high, weight[outs][:, ins], bias[outs], stride), EXACT)
    if stride == 1 or kernels == "exact":  # the paper's pools in front of a stride, which takes other samples
        of_high, of_low = weight[sorted(low_out)][:, ins], weight[sorted(low_out)][:, sorted(low_in)]
        wanted = F.conv2d(high, of_high, None, stride) + F.conv2d(
            U(low), of_low, bias[sorted(low_out)], stride
        )
        assert_same(y_low, P(wanted), EXACT)


@pytest.mark.parametrize(
    ("conv", "low_in", "low_out"),
    [
        (nn.Conv2d(8, 8, 3, padding=1), range(4), range(4)),  # it mixes positions
        (nn.Conv2d(8, 8, 1), (), range(4)),  # it splits
        (nn.Conv2d(8, 8, 1), range(4), ()),  # it merges
        (nn.Conv2d(8, 8, 1), range(8), range(4)),  # high outputs would have no inputs
        (nn.Conv2d(8, 8, 1), range(4), range(8)),  # there is no high output
        (nn.Conv2d(8, 8, 1, groups=2), range(4), range(0, 8, 2)),  # a group has no high inputs
        (nn.Conv2d(8, 8, 1, groups=2), range(0, 8, 2), range(4)),  # low inputs of a group would be lost
    ],
)
def test_layers_that_need_their_exchange(conv: nn.Conv2d, low_in: range, low_out: range) -> None:
    asked, plain = (
        OctaveConv2d.from_conv(conv, low_in, low_out, "paper", exchange)
        for exchange in ("high-to-low", "full")
    )
    assert asked.exchange == "full"
    assert [getattr(asked, name) is None for name in PATHS] == [
        getattr(plain, name) is None for name in PATHS
    ]


@pytest.mark.parametrize("build", LIMITED, ids=lambda build: build.__name__)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_the_network_is_the_projected_reference(build: type[nn.Module], alpha: float, tmp_path: Path) -> None:
    model, x = randomised(build()), noise(2, 3, 16, 16)
    traced, plan = planned(model, x, tmp_path, ONE_WAY, alpha=alpha, kernels="exact")
    assert limited(plan) == LIMITED[build]
    with torch.no_grad():
        wanted = reference(traced, plan)(x)
        assert_same(rewrite(traced, plan).module(x), wanted, EXACT)
        for other in ("full", "spatial"):
            changed = replace(plan, convs=tuple(replace(conv, exchange=other) for conv in plan.convs))
            assert (reference(traced, changed)(x) - wanted).abs().max() > 1e-3  # another function


@given(st.sets(st.integers(0, 15)), st.sampled_from(["spatial", "high-to-low"]), st.sampled_from([1, 4]))
def test_an_edited_plan_is_the_projected_reference(low: set[int], exchange: Any, groups: int) -> None:
    """Asked of every convolution, whatever it can do: the layers and the reference answer alike."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 16, 1, groups=groups),
        nn.ConvTranspose2d(16, 16, 1),
        nn.Conv2d(16, 4, 3, padding=1),
    )
    model, x = randomised(net), noise(1, 3, 8, 8)
    traced = trace(model, x)
    convs = octify.convert(model.float(), x.float(), 0.0).plan.convs
    model.double()
    chosen = tuple(sorted(low))
    first, one, two, last = convs
    edited = (
        replace(first, low_out=chosen),
        replace(one, low_in=chosen, low_out=chosen),
        replace(two, low_in=chosen, low_out=chosen),
        replace(last, low_in=chosen),
    )
    plan = Plan(
        0.5,
        "edited",
        "exact",
        traced.inputs,
        tuple(replace(conv, exchange=exchange, kernels="exact") for conv in edited),
    )
    with torch.no_grad():
        assert_same(rewrite(traced, plan).module(x), reference(traced, plan)(x), EXACT)


def test_plans_keep_it(tmp_path: Path) -> None:
    _, plan = planned(randomised(Net()), noise(1, 3, 16, 16), tmp_path, ONE_WAY)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert limited(plan) == LIMITED[Net]


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_macs(alpha: float, tmp_path: Path) -> None:
    """``(1 - a)(1 - b) + b / 4`` of the dense MACs, in the report, in a run, and in what the planner reckons."""
    model, x = Net().float().eval(), torch.zeros(1, 3, 16, 16)
    file = tmp_path / "rules.toml"
    file.write_text(ONE_WAY)
    result = octify.convert(model, x, alpha, file)
    rows = {row.path: row for row in result.report.layers}
    assert {path for path, row in rows.items() if row.exchange == "high-to-low"} == LIMITED[Net]
    reckoned = {
        conv.path: replace(conv, exchange="high-to-low")
        for conv in collect(trace(model, x), rewrite(trace(model, x), result.plan).resolved.layout)
    }
    for path in LIMITED[Net]:
        a, b = rows[path].alpha_in, rows[path].alpha_out
        share = (1 - a) * (1 - b) + b / 4
        assert rows[path].macs_after == pytest.approx(share * rows[path].macs_before, abs=0.5)
        assert reckoned[path].share(a, b) == pytest.approx(share)
        assert reckoned[path].share(a, 0) == pytest.approx(1 - 3 / 4 * a if path != "down" else 1)
    assert sum(row.macs_after for row in rows.values()) == result.report.totals.macs_after
    assert str(result.report).count("one-way") == len(LIMITED[Net])


@pytest.fixture
def result(tmp_path: Path) -> octify.Result:
    return converted(ONE_WAY, tmp_path)


def test_save_and_replay(result: octify.Result, tmp_path: Path) -> None:
    assert_saved_and_loaded(result, tmp_path)


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-int8", "openvino", "ncnn"])
def test_export(result: octify.Result, target: str, tmp_path: Path) -> None:
    """onnxruntime agrees with PyTorch; a convolution without low-to-high needs no upsampling."""
    file = tmp_path / "net.onnx"
    exported = octify.export_onnx(result.model, torch.randn(2, 3, 16, 16), file, target=target)
    assert exported.passed
    assert exported.ops["Resize"] == 2  # of the 3x3 and of the end, whose output is dense


def test_calibration_fits_the_paths_that_are_there(tmp_path: Path) -> None:
    """Fitted to a function that exchanges both ways: nearer than before, and still without the one path."""
    fitted, expand = calibrated_nearer(ONE_WAY, tmp_path)
    assert limited(fitted.plan) == LIMITED[Net]
    assert expand.low_to_high is None
    (high,), (low,) = blocks(expand, "high"), blocks(expand, "low")
    assert [part.name for part in high.slices] == ["high_to_high"]
    assert {part.name for part in low.slices} == {"high_to_low", "low_to_low"}
