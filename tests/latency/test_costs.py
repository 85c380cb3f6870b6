"""Plans by measured time: what a convolution is made of, the table, and what stays dense."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

import octify
from octify.errors import OctifyError
from octify.latency.operators.costs import OnnxruntimeCosts, operators
from octify.latency.operators.primitives import Operator, milliseconds
from octify.latency.operators.table import OperatorTable
from octify.passes.couple import couple
from octify.passes.rewrite import rewrite
from octify.planning.convs import Conv, collect
from octify.planning.costs import MacCosts
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace
from octify.trace.cost import cost
from octify.trace.parts import measure_nodes


def macs(op: Operator) -> int:
    """Multiply-accumulates of an operator; only convolutions have any."""
    if op.kind == "conv_transpose":
        return op.batch * op.channels_in * op.channels_out // op.groups * prod(op.kernel) * prod(op.size)
    if op.kind != "conv":
        return 0
    dims = range(len(op.size))
    total = op.batch * op.channels_out * op.channels_in // op.groups
    for a in dims:
        padded = op.size[a] + op.pads[a] + op.pads[a + len(op.size)]
        total *= op.kernel[a] * ((padded - op.dilation[a] * (op.kernel[a] - 1) - 1) // op.stride[a] + 1)
    return total


class ByMacs(dict[Operator, float]):
    """Stands for a table: an operator's time is its MACs, and a boundary is free."""

    threads, runtime = 1, "onnxruntime"

    def __missing__(self, op: Operator) -> float:
        return float(macs(op))


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv2d(64, 64, 5, padding=2, groups=64),
        nn.Conv2d(64, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    ("kernels", "exchange"),
    [("paper", "full"), ("paper", "spatial"), ("paper", "high-to-low"), ("exact", "full")],
)
def test_operators_have_the_macs_of_the_converted_graph(alpha: float, kernels: str, exchange: str) -> None:
    """The MACs of all operators that a plan is priced by are those that its graph is counted to have."""
    traced = trace(net(), torch.zeros(2, 3, 32, 32))
    found: dict[tuple[str, int, int], Conv] = {}

    class Seen(MacCosts):
        def conv(self, conv: Conv, low_in: int, low_out: int) -> float:
            found[conv.path, low_in, low_out] = conv
            return super().conv(conv, low_in, low_out)

    rules = load_rules("everywhere")
    rules = replace(rules, settings=rules.settings.model_copy(update={"exchange": exchange}))
    plan = make_plan(traced, rules, alpha, kernels, costs=Seen(0.0))  # type: ignore[arg-type]
    graph = rewrite(traced, plan).module
    counted = cost(graph, measure_nodes(traced, graph)).layers
    for entry in plan.convs:
        key = (entry.path, len(entry.low_in), len(entry.low_out))
        assert key in found
        priced = sum(macs(op) for op in operators(found[key], *key[1:], kernels))  # type: ignore[arg-type]
        assert priced == counted[entry.path].macs, entry.path


def test_time_by_macs_plans_as_macs_do() -> None:
    traced = trace(net(), torch.zeros(1, 3, 32, 32))
    rules = load_rules("everywhere")
    by_time = make_plan(traced, rules, 0.5, costs=OnnxruntimeCosts(ByMacs()))  # type: ignore[arg-type]
    assert by_time == make_plan(traced, rules, 0.5)


@pytest.mark.parametrize("dear", ["pool", "up"])
def test_dear_exchange_is_avoided(dear: str) -> None:
    """Where pooling or upsampling takes forever, no convolution has a path that needs it."""
    convs: dict[str, Conv] = {}

    class Dear(ByMacs):
        def __missing__(self, op: Operator) -> float:
            return 1e12 if op.kind == dear else float(macs(op))

    class Seen(OnnxruntimeCosts):
        def conv(self, conv: Conv, low_in: int, low_out: int) -> float:
            convs[conv.path] = conv
            return super().conv(conv, low_in, low_out)

    traced = trace(net(), torch.zeros(1, 3, 32, 32))
    plan = make_plan(traced, load_rules("everywhere"), 0.5, costs=Seen(Dear()))  # type: ignore[arg-type]
    for entry in plan.convs:
        made = operators(convs[entry.path], len(entry.low_in), len(entry.low_out))
        assert dear not in {op.kind for op in made}, entry.path


def test_what_saves_no_time_stays_dense() -> None:
    """A machine on which every convolution takes as long as any other has no use for smaller ones."""

    class Level(ByMacs):
        def __missing__(self, op: Operator) -> float:
            return 1.0

    traced = trace(net(), torch.zeros(1, 3, 32, 32))
    plan = make_plan(traced, load_rules("everywhere"), 0.5, costs=OnnxruntimeCosts(Level()))  # type: ignore[arg-type]
    assert not any(entry.converted for entry in plan.convs)
    assert any("save no time (onnxruntime, 1 thread)" in (entry.reason or "") for entry in plan.convs)


OPS = [
    Operator("conv", 1, 16, 32, (9, 8), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    Operator("conv", 2, 32, 32, (8,), (3,), (2,), (1,), (1, 1), 32),
    Operator("conv", 1, 8, 16, (2, 6, 6), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1,) * 6),
    Operator("conv_transpose", 1, 16, 8, (6, 6), (2, 2), (2, 2), (1, 1), (0,) * 4),
    Operator("pool", 1, 16, 16, (9, 9)),
    Operator("pool", 1, 16, 16, (9,)),
    Operator("clip", 1, 16, 16, (9, 9)),
    Operator("up", 1, 16, 16, (7, 7)),
    Operator("merge", 1, 16, 32, (8, 8)),
]


@pytest.mark.parametrize("op", OPS, ids=lambda op: f"{op.kind}{len(op.size)}d")
def test_operators_are_timed(op: Operator) -> None:
    assert 0 < milliseconds(op, 1) < 1000


def test_more_work_takes_more_time() -> None:
    """64 times the MACs: whatever else runs here, that shows."""
    sizes = [Operator("conv", 1, c, c, (28, 28), (3, 3), (1, 1), (1, 1), (1,) * 4) for c in (16, 128)]
    small, large = (milliseconds(op, 1) for op in sizes)
    assert large > 4 * small


def test_a_table_is_kept_and_asked_once(tmp_path: Path) -> None:
    asked: list[Operator] = []

    def measure(op: Operator, threads: int) -> float:
        asked.append(op)
        return 2.0 * threads

    path = tmp_path / "deep" / "table.json"
    table = OperatorTable(3, path, measure)
    assert [table[op] for op in (*OPS, *OPS)] == [6.0] * 2 * len(OPS)
    assert asked == OPS
    table.save()
    again = OperatorTable(3, path, _unexpected)
    assert [again[op] for op in OPS] == [6.0] * len(OPS)
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | {"machine": "another"}), encoding="utf-8")
    assert len(OperatorTable(3, path)) == 0
    path.write_text("{", encoding="utf-8")
    assert len(OperatorTable(3, path)) == 0


def _unexpected(op: Operator, threads: int) -> float:
    raise AssertionError(op)


def test_convert_by_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    x = torch.randn(1, 3, 32, 32)
    result = octify.convert(net(), x, 0.5, "everywhere", latency=1, progress=said.append)
    assert any("timing operators" in line for line in said)
    assert (tmp_path / "octify" / "onnxruntime-1-threads.json").exists()
    assert result.model(x).shape == (1, 10)
    again: list[str] = []
    octify.convert(net(), x, 0.5, "everywhere", latency=1, progress=again.append)
    assert not any("timing operators" in line for line in again)


@pytest.mark.parametrize("beside", [{"plan": "plan.json"}, {"target_macs": 0.6, "calibration": "synthetic"}])
def test_latency_beside_a_target_or_a_plan_is_refused(beside: dict[str, object]) -> None:
    call: Callable[..., object] = octify.convert
    with pytest.raises(OctifyError, match="latency cannot be combined"):
        call(net(), torch.zeros(1, 3, 32, 32), latency=1, **beside)


def test_relu6_of_a_sum_is_priced() -> None:
    """Behind a sum of two paths it takes a pass of its own, behind one path none; ReLU never does."""
    body = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU6(), nn.Conv2d(32, 32, 3, padding=1)),
        *(nn.BatchNorm2d(32), nn.ReLU6(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
    ).eval()
    traced = trace(body, torch.zeros(1, 3, 9, 8))
    convs = collect(traced, couple(traced))
    assert [conv.clipped for conv in convs] == [True, True, False]

    def clips(conv: Conv, low_in: int, low_out: int) -> list[tuple[int, tuple[int, ...]]]:
        found = operators(conv, low_in, low_out)
        return [(op.channels_out, op.size) for op in found if op.kind == "clip"]

    assert clips(convs[1], 8, 24) == [(8, (9, 8)), (24, (5, 4))]
    assert clips(convs[1], 0, 24) == []
    assert clips(convs[1], 8, 0) == [(32, (9, 8))]
    assert clips(convs[2], 8, 24) == []
