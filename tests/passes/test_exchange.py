"""``exchange = "spatial"``: 1x1 convolutions that keep high and low channels apart."""

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
from octify.errors import PlanError, RuleError
from octify.nn import OctaveConv2d
from octify.passes.reference import reference
from octify.passes.rewrite import rewrite
from octify.plan import Plan
from octify.planning.convs import collect
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import Traced, trace
from tests.oracle import EXACT, P, U, assert_same, high_of, noise, randomised

PATHS = ("high_to_high", "high_to_low", "low_to_high", "low_to_low")
RULES = """name = "apart"
[settings]
exchange = "spatial"
[[rule]]
match = { out_channels = "<8" }
output = "dense"
"""
ONE = 'name = "one"\n[[rule]]\nmatch = { path = "*expand" }\nexchange = "spatial"\n'


class Net(nn.Module):
    """A stem, a 3x3 between 1x1 convolutions with a residual, a 1x1 with a stride, a dense end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.squeeze, self.norm = nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.expand = nn.Conv2d(8, 16, 1)
        self.down = nn.Conv2d(16, 16, 1, 2)
        self.end = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.expand(F.relu(self.conv(F.relu(self.norm(self.squeeze(x))))))
        return self.end(F.relu(self.down(x))).flatten(1)


class ChannelsLast(nn.Module):
    """Linear layers of a map whose channels come last are 1x1 convolutions too; a 3x3 exchanges for them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(16, 16, 3, padding=1)
        self.stem, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.narrow(F.gelu(self.wide(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        x = x + y
        return self.last(x + self.mix(F.relu(x)))


class Grouped(nn.Module):
    """A grouped 1x1 convolution: high and low channels in every group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1, groups=4)
        self.last = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.mix(F.relu(self.stem(x)))))


APART = {
    Net: {"squeeze", "expand", "down"},
    ChannelsLast: {"wide", "narrow"},
    Grouped: {"mix"},
}


def planned(net: nn.Module, x: Tensor, folder: Path, rules: str = RULES, **asked: Any) -> tuple[Traced, Plan]:
    file = folder / "rules.toml"
    file.write_text(rules)
    traced = trace(net, x)
    return traced, make_plan(traced, load_rules(file), **asked)


def apart(plan: Plan) -> set[str]:
    return {conv.path for conv in plan.convs if conv.exchange == "spatial"}


# The layer --------------------------------------------------------------------------------------------------


@given(
    st.sets(st.integers(0, 7), min_size=1, max_size=7),
    st.sets(st.integers(0, 5), min_size=1, max_size=5),
    st.sampled_from([1, 2]),
    st.sampled_from(["paper", "exact"]),
)
def test_a_layer_is_two_convolutions(low_in: set[int], low_out: set[int], stride: int, kernels: Any) -> None:
    """High outputs are C of the high inputs, low outputs ``P C U`` of the low ones; nothing else."""
    conv = randomised(nn.Conv2d(8, 6, 1, stride))
    made = OctaveConv2d.from_conv(conv, sorted(low_in), sorted(low_out), kernels, "spatial")
    assert [name for name in PATHS if getattr(made, name) is not None] == ["high_to_high", "low_to_low"]
    high, low = noise(2, 8 - len(low_in), 8, 12), noise(2, len(low_in), 4, 6, seed=1)
    ins, outs = high_of(8, sorted(low_in)), high_of(6, sorted(low_out))
    weight, bias = conv.weight, conv.bias
    assert isinstance(bias, Tensor)
    y_high, y_low = made(high, low)
    assert_same(y_high, F.conv2d(high, weight[outs][:, ins], bias[outs], stride), EXACT)
    chosen = weight[sorted(low_out)][:, sorted(low_in)]
    assert_same(y_low, P(F.conv2d(U(low), chosen, bias[sorted(low_out)], stride)), EXACT)


@pytest.mark.parametrize(
    ("conv", "low_in", "low_out"),
    [
        (nn.Conv2d(8, 8, 3, padding=1), range(4), range(4)),  # it mixes positions
        (nn.Conv2d(8, 8, 1), (), range(4)),  # it splits
        (nn.Conv2d(8, 8, 1), range(4), ()),  # it merges
        (nn.Conv2d(8, 8, 1), range(8), range(4)),  # high outputs have low inputs alone
        (nn.Conv2d(8, 8, 1, groups=2), range(4), range(0, 8, 2)),  # a group has no high inputs
    ],
)
def test_layers_that_need_their_exchange(conv: nn.Conv2d, low_in: range, low_out: range) -> None:
    asked, plain = (
        OctaveConv2d.from_conv(conv, low_in, low_out, "paper", exchange) for exchange in ("spatial", "full")
    )
    assert asked.exchange == "full"
    assert [getattr(asked, name) is None for name in PATHS] == [
        getattr(plain, name) is None for name in PATHS
    ]


# Networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", APART, ids=lambda build: build.__name__)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_the_network_is_the_projected_reference(build: type[nn.Module], alpha: float, tmp_path: Path) -> None:
    model, x = randomised(build()), noise(2, 3, 16, 16)
    traced, plan = planned(model, x, tmp_path, alpha=alpha, kernels="exact")
    assert apart(plan) == APART[build]
    with torch.no_grad():
        wanted = reference(traced, plan)(x)
        assert_same(rewrite(traced, plan).module(x), wanted, EXACT)
        full = replace(plan, convs=tuple(replace(conv, exchange="full") for conv in plan.convs))
        assert (reference(traced, full)(x) - wanted).abs().max() > 1e-3  # another function


def test_a_rule_sets_it_for_what_it_matches(tmp_path: Path) -> None:
    _, plan = planned(randomised(Net()), noise(1, 3, 16, 16), tmp_path, ONE)
    assert apart(plan) == {"expand"}
    other = RULES + '[[rule]]\nmatch = { path = "expand" }\nexchange = "full"\n'
    _, plan = planned(randomised(Net()), noise(1, 3, 16, 16), tmp_path, other)
    assert apart(plan) == APART[Net] - {"expand"}


def test_unknown_exchange_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"exchange.*'full', 'spatial' or 'high-to-low'") as caught:
        planned(randomised(Net()), noise(1, 3, 16, 16), tmp_path, RULES.replace("spatial", "none"))
    assert (caught.value.where or "").endswith(":3")


def test_plans_keep_it(tmp_path: Path) -> None:
    _, plan = planned(randomised(Net()), noise(1, 3, 16, 16), tmp_path)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    document = plan.to_dict()
    for conv in document["convolutions"]:
        del conv["exchange"]  # a plan of before
    assert apart(Plan.from_dict(document)) == set()
    document["convolutions"][0]["exchange"] = "some"
    with pytest.raises(PlanError, match=r"convolutions.0.exchange"):
        Plan.from_dict(document)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_macs(alpha: float, tmp_path: Path) -> None:
    """``(1 - a)(1 - b) + a b / 4`` of the dense MACs, in the report, in a run, and in what the planner reckons."""
    model, x = Net().float().eval(), torch.zeros(1, 3, 16, 16)
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    result = octify.convert(model, x, alpha, file)
    rows = {row.path: row for row in result.report.layers}
    assert {path for path, row in rows.items() if row.exchange == "spatial"} == APART[Net]
    reckoned = {
        conv.path: replace(conv, exchange="spatial")
        for conv in collect(trace(model, x), rewrite(trace(model, x), result.plan).resolved.layout)
    }
    for path in APART[Net]:
        a, b = rows[path].alpha_in, rows[path].alpha_out
        share = (1 - a) * (1 - b) + a * b / 4
        assert rows[path].macs_after == pytest.approx(share * rows[path].macs_before, abs=0.5)
        assert reckoned[path].share(a, b) == pytest.approx(share)
        assert reckoned[path].share(a, 0) == pytest.approx(1 - 3 / 4 * a if path != "down" else 1)
    assert sum(row.macs_after for row in rows.values()) == result.report.totals.macs_after
    assert str(result.report).count("no exchange") == len(APART[Net])


# What comes after -------------------------------------------------------------------------------------------


@pytest.fixture
def result(tmp_path: Path) -> octify.Result:
    return converted(RULES, tmp_path)


def converted(rules: str, folder: Path) -> octify.Result:
    """The network in float32 under ``rules``, written into ``folder``."""
    file = folder / "rules.toml"
    file.write_text(rules)
    torch.manual_seed(0)
    return octify.convert(randomised(Net().float()).float().eval(), torch.randn(2, 3, 16, 16), 0.5, file)


def assert_saved_and_loaded(result: octify.Result, folder: Path) -> None:
    """From disk it computes what it computed."""
    result.save(folder / "out")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(octify.load(folder / "out", Net().eval())(x), result.model(x))


def calibrated_nearer(rules: str, folder: Path) -> tuple[octify.Result, OctaveConv2d]:
    """A calibrated conversion, which is nearer to the original than an uncalibrated one, and its ``expand``."""
    file = folder / "rules.toml"
    file.write_text(rules)
    torch.manual_seed(0)
    model = randomised(Net()).float().eval()
    images = F.interpolate(torch.randn(64, 3, 6, 6), size=16, mode="bilinear")
    held_out = F.interpolate(torch.randn(32, 3, 6, 6), size=16, mode="bilinear")
    plain = octify.convert(model, images[:2], 0.5, file)
    fitted = octify.convert(model, images[:2], 0.5, file, calibration=[images], effort="fast")
    with torch.no_grad():
        wanted = model(held_out)
        before, after = (((r.model(held_out) - wanted) ** 2).mean() for r in (plain, fitted))
    assert after < 0.5 * before
    expand = fitted.model.get_submodule("expand")
    assert isinstance(expand, OctaveConv2d)
    return fitted, expand


def test_save_and_load(result: octify.Result, tmp_path: Path) -> None:
    assert_saved_and_loaded(result, tmp_path)


def test_export(result: octify.Result, tmp_path: Path) -> None:
    """onnxruntime agrees with PyTorch; a convolution that keeps its channels apart is two."""
    exported = octify.export_onnx(result.model, torch.randn(2, 3, 16, 16), tmp_path / "net.onnx")
    assert exported.passed
    paths = {"stem": 2, "squeeze": 2, "conv": 4, "expand": 2, "down": 2, "end": 2}
    assert exported.ops["Conv"] == sum(paths.values()) + 3  # three poolings, of a few channels each
    assert exported.ops["Resize"] == 2  # of the 3x3 and of the end, whose output is dense


def test_calibration_repairs_what_exchanges_nothing(tmp_path: Path) -> None:
    """Fitted to a function that exchanges, without the paths for it: nearer than before, and still without."""
    fitted, expand = calibrated_nearer(RULES, tmp_path)
    assert apart(fitted.plan) == APART[Net]
    assert expand.high_to_low is expand.low_to_high is None


def test_calibration_fits_the_paths_that_are_there(result: octify.Result) -> None:
    layer = result.model.get_submodule("expand")
    assert isinstance(layer, OctaveConv2d)
    for branch in ("high", "low"):
        (block,) = blocks(layer, branch)
        assert [part.name for part in block.slices] == [f"{branch}_to_{branch}"]
