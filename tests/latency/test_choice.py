"""Plans by measured time: whole models have the last word, and nothing slower than the original is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import octify
from octify.errors import OctifyError
from octify.latency.operators import choice, openvino
from octify.latency.operators.table import OperatorTable
from octify.latency.ratio import Ratio
from octify.latency.rows import Timing as Measured
from octify.latency.verdict import RUNTIMES, PlanTiming
from octify.report import Report
from tests.latency.test_costs import OPS, macs, net

X = torch.zeros(1, 3, 32, 32)


def row(name: str, ms: float, low: float, high: float) -> Any:
    timing = Measured(ms, ms, ms, 10 / ms, 20, Ratio(10 / ms, low, high))
    return SimpleNamespace(model=name, timing=timing, batch=1)


class Machine:
    """A machine on which whole models take the times that it is told, operators their MACs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: Sequence[tuple[float, float, float]]) -> None:
        self.times, self.models = list(times), {}
        monkeypatch.setattr(choice, "bench", self.bench)
        monkeypatch.setattr(OperatorTable, "__getitem__", lambda table, op: float(macs(op)))
        monkeypatch.setattr(OperatorTable, "save", lambda table: None)

    def bench(self, models: Mapping[str, nn.Module], inputs: Any, **options: Any) -> Any:
        self.models, self.options = dict(models), options
        dense, *others = models
        measured = [row(name, *self.times[i % len(self.times)]) for i, name in enumerate(others)]
        return SimpleNamespace(rows=(row(dense, 10.0, 1.0, 1.0), *measured))


def by_time(**asked: Any) -> octify.Result:
    return octify.convert(net(), X, 0.5, "everywhere", latency=1, **asked)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_faster_plan_is_taken(monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    machine = Machine(monkeypatch, [(5.0, 1.9, 2.1)])
    result = by_time(latency_runtime=runtime)
    assert machine.options["runtimes"] == [runtime]
    assert any(conv.converted for conv in result.plan.convs)
    timing = result.report.timing
    assert timing is not None
    assert (timing.kept, timing.ratio, timing.runtime) == (True, 2.0, runtime)
    assert f"Timed whole in {runtime}, 1 thread" in str(result.report)
    assert Report.from_dict(result.report.to_dict()) == result.report
    assert timing.sentence in result.report.to_html().replace("&#x27;", "'")


@pytest.mark.parametrize("times", [(12.0, 0.8, 0.9), (10.0, 0.9, 1.1), (9.9, 0.99, 1.02)])
@pytest.mark.parametrize("calibration", [None, "synthetic"])
def test_what_is_not_surely_faster_stays_dense(
    monkeypatch: pytest.MonkeyPatch, times: tuple[float, float, float], calibration: str | None
) -> None:
    """The report says which convolutions, why, and what was measured; nothing is calibrated."""
    Machine(monkeypatch, [times])
    result = by_time(calibration=calibration)
    assert not any(conv.converted for conv in result.plan.convs)
    timing = result.report.timing
    assert timing is not None and not timing.kept
    assert "so everything stays dense" in str(result.report)
    reasons = {left.path: left.reason for left in result.report.left_dense}
    assert sum(reason == timing.reason for reason in reasons.values()) >= 3
    torch.testing.assert_close(result.model.eval()(X + 1).shape, (1, 10))


def test_of_several_plans_the_fastest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets that save little are dense in some; plans that are equal are timed once."""
    Machine(monkeypatch, [(9.0, 1.05, 1.2), (6.0, 1.5, 1.8)])
    monkeypatch.setattr(choice, "SAVINGS", (0.02, 0.02, 0.35))
    found = by_time()
    timing = found.report.timing
    assert timing is not None
    assert timing.plans == 2
    assert timing.octave_ms == 6.0
    only = Machine(monkeypatch, [(6.0, 1.5, 1.8)])
    monkeypatch.setattr(choice, "SAVINGS", (0.35,))
    assert by_time().plan.convs == found.plan.convs
    assert len(only.models) == 2


def test_prices_alone_can_leave_everything_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, [])
    monkeypatch.setattr(choice, "SAVINGS", (0.999,))
    result = by_time()
    assert not machine.models
    assert result.report.timing is None
    assert not any(conv.converted for conv in result.plan.convs)
    assert any("save under 100% of time" in (conv.reason or "") for conv in result.plan.convs)


@pytest.mark.parametrize("runtime", ["eager", "onnx", ""])
def test_other_runtimes_are_answered_with_the_choices(runtime: str) -> None:
    with pytest.raises(OctifyError, match="cannot be timed in") as caught:
        by_time(latency_runtime=runtime)
    assert ", ".join(RUNTIMES) in (caught.value.hint or "")


@pytest.mark.parametrize("op", OPS, ids=lambda op: f"{op.kind}{len(op.size)}d")
def test_operators_are_timed_in_openvino(op: Any) -> None:
    taken = openvino.milliseconds(op, 1)
    assert taken == 0 if op.kind == "clip" else 0 < taken < 1000


def test_tables_of_two_runtimes_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for runtime, ms in (("onnxruntime", 1.0), ("openvino", 2.0)):
        table = OperatorTable(1, measure=lambda op, threads, ms=ms: ms, runtime=runtime)
        assert table[OPS[0]] == ms
        table.save()
    for runtime, ms in (("onnxruntime", 1.0), ("openvino", 2.0)):
        assert OperatorTable(1, runtime=runtime)[OPS[0]] == ms


def test_the_verdict_says_what_was_measured() -> None:
    kept = PlanTiming("openvino", 2, 1, 20, 3, 12.34, 9.0, 1.371, 1.3, 1.45, True)
    assert kept.sentence == (
        "Timed whole in openvino, 2 threads, batch 1, 20 rounds, the fastest of 3 plans: "
        "12.34 ms dense, 9.00 ms octave: 1.37 times as fast (95 %: 1.30 to 1.45)."
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_models_are_timed_as_copies_in_float32(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """In eval mode, whatever mode and type the user's model has; that one is left as it was."""
    machine = Machine(monkeypatch, [(5.0, 1.9, 2.1)])
    model = net().to(dtype).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = octify.convert(model, X.to(dtype), 0.5, "everywhere", latency=1)
    assert result.model.training and model.training
    assert all(not each.training for each in machine.models.values())
    parameters = [p for each in machine.models.values() for p in each.parameters()]
    assert {p.dtype for p in parameters} == {torch.float32}
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
