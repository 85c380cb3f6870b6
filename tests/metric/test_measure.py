"""A metric: what it may return, what it can do to the model, and its drop in the report."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import octify
from octify.allocate.plans import Plans
from octify.errors import CheckFailed, OctifyError
from octify.metric.function import load_metric, metric_of
from octify.metric.measure import Baseline, measure
from octify.planning.ruleset import load_rules
from octify.report.metric import MetricRow, MetricValue
from octify.trace import trace
from tests.nets import Residual

FINITE = st.floats(-1e6, 1e6)


def net(width: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return Residual(width).eval()


def baseline(function: Callable[[nn.Module], Any], **options: Any) -> Baseline:
    return Baseline.of(metric_of(function, **options), nn.Linear(1, 1))


@given(FINITE, FINITE, st.booleans())
def test_a_drop_is_positive_where_the_result_is_worse(first: float, second: float, lower: bool) -> None:
    values = iter([first, second])
    row = baseline(lambda model: next(values), lower=lower).compare(nn.Linear(1, 1))
    (value,) = row.values
    assert (value.original, value.result) == (first, second)
    assert value.drop == (second - first if lower else first - second)
    assert (value.drop > 0) == (second > first if lower else second < first)
    assert row.drop == value.drop


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_a_drop_of_exactly_the_bound_is_kept(dropped: int, count: int) -> None:
    """Shares of a count, as float32 means: .998 - .988 is within .01, one more wrong answer is not."""
    dropped = min(dropped, count)
    original, result = (torch.tensor(n / count).item() for n in (count, count - dropped))
    row = MetricRow("f", False, (MetricValue("f", original, result, original - result),), 0.0, 0.0)
    assert row.keeps(dropped / count)
    assert dropped == 0 or not row.keeps((dropped - 1) / count)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("high", "returned a str"),
        (None, "returned None"),
        (True, "returned a bool"),
        (float("nan"), "returned nan"),
        (float("-inf"), "returned -inf"),
        (torch.tensor(1.0), "a Tensor of shape ()"),
        (torch.ones(3), "a Tensor of shape (3,)"),
        (np.ones(2), "a ndarray of shape (2,)"),
        ([0.5], "returned a list"),
        (1j, "returned a complex"),
        ({}, "returned an empty dict"),
        ({"a": 0.5, 3: 0.5}, "a dict with the key 3"),
        ({"a": 0.5, "b": "x"}, "returned a str as 'b'"),
        ({"a": np.float32("nan")}, "returned nan as 'a'"),
        ({"a": {"b": 1.0}}, "returned a dict as 'a'"),
    ],
    ids=str,
)
def test_what_is_no_number_is_refused_with_the_line(value: Any, told: str) -> None:
    def wrong(model: nn.Module) -> Any:
        return value

    with pytest.raises(OctifyError) as caught:
        measure(metric_of(wrong), nn.Linear(1, 1))
    assert told in caught.value.what
    assert caught.value.where == f"{__file__}:{wrong.__code__.co_firstlineno}"
    assert caught.value.hint


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(3), {"a": 1, "b": np.float64(2)}])
def test_numbers_of_all_kinds_are_taken(value: Any) -> None:
    got = measure(metric_of(lambda model: value), nn.Linear(1, 1)).values
    assert list(got.values()) == [float(v) for v in (value.values() if isinstance(value, dict) else [value])]
    assert all(type(v) is float for v in got.values())


def test_other_keys_are_refused() -> None:
    values = iter([{"a": 1.0, "b": 2.0}, {"a": 1.0}])
    before = baseline(lambda model: next(values))
    with pytest.raises(OctifyError, match="other keys for the converted model"):
        before.compare(nn.Linear(1, 1))


def test_a_failure_names_the_users_line(tmp_path: Path) -> None:
    path = tmp_path / "judge.py"
    path.write_text("def f(model):\n    x = 1\n    raise KeyError('images')\n")
    with pytest.raises(OctifyError) as caught:
        measure(load_metric(f"{path}:f"), nn.Linear(1, 1))
    assert caught.value.where == f"{path}:3"
    assert "KeyError: 'images'" in str(caught.value)
    assert "on the converted model" in caught.value.what


@pytest.mark.parametrize(
    ("code", "name", "told"),
    [
        ("def accuracy(model): return 1.0", "acuracy", "try:   --metric {path}:accuracy"),
        ("x = 3", "f", "it defines no function"),
        ("f = 3", "f", "is a int, not a function"),
        ("class f: pass", "f", "is the class f, not a function"),
        ("def f(): return 1.0", "f", "too many positional arguments"),
        ("def f(model, data): return 1.0", "f", "missing a required argument: 'data'"),
        ("def f(model:", "f", "SyntaxError"),
        ("import no_such_package_here", "f", "install no_such_package_here"),
    ],
)
def test_files_without_the_function(tmp_path: Path, code: str, name: str, told: str) -> None:
    path = tmp_path / "judge.py"
    path.write_text(code + "\n")
    with pytest.raises(OctifyError) as caught:
        load_metric(f"{path}:{name}")
    assert told.format(path=path) in str(caught.value)


@pytest.mark.parametrize("text", ["accuracy", "judge.py", "judge.py:", "gone.py:f", ".:f", "folder.py:f"])
def test_names_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("judge.py").write_text("def f(model): return 1.0\n")
    Path("folder.py").mkdir()
    with pytest.raises(OctifyError, match="metric"):
        load_metric(text)


class Judge:
    """A metric with a state."""

    def __call__(self, model: nn.Module) -> float:
        return 0.5

    def method(self, model: nn.Module) -> float:
        return 0.25


def test_every_kind_of_callable_has_its_line() -> None:
    def two(weight: float, model: nn.Module) -> float:
        return weight

    for function in (Judge(), Judge().method, functools.partial(two, 0.5), lambda model: 1.0):
        metric = metric_of(function)
        assert (metric.where or "").startswith(f"{__file__}:")
        assert all(v > 0 for v in measure(metric, nn.Linear(1, 1)).values.values())
    assert metric_of(len).where is None


def vandal(model: nn.Module) -> float:
    """A metric that changes all that it can reach."""
    assert not model.training and not any(part.training for part in model.modules())
    assert not torch.is_grad_enabled()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.train()
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(torch.get_num_threads() + 1)
    return 1.0


def surroundings() -> list[Any]:
    numpy = np.random.get_state()
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy],
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
    ]


def test_a_metric_leaves_its_surroundings() -> None:
    model, before = net(), surroundings()
    for _ in range(2):
        measure(metric_of(vandal), model)
        assert surroundings() == before


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize("training", [False, True])
def test_a_metric_changes_nothing_of_the_result(training: bool) -> None:
    x, data = torch.randn(1, 3, 16, 16), [torch.randn(16, 3, 16, 16) for _ in range(3)]
    options: dict[str, Any] = {"rules": "everywhere", "calibration": data, "effort": "fast"}
    model = net().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    judged = octify.convert(model, x, metric=vandal, **options)
    plain = octify.convert(model, x, **options)
    assert judged.plan == plain.plan
    assert judged.model.training == plain.model.training == training
    for name, value in judged.model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name]), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_report_has_it_and_is_read_again() -> None:
    x = torch.randn(4, 3, 16, 16)
    want = net()(x)

    def error(model: nn.Module) -> dict[str, float]:
        return {"distance": (model(x) - want).norm().item(), "count": 4}

    report = octify.convert(net(), x, rules="everywhere", metric=error, metric_lower=True).report
    assert report.metric is not None
    distance, count = report.metric.values
    assert distance.original == 0
    assert distance.result == distance.drop > 0
    assert count.drop == 0
    assert octify.Report.from_dict(report.to_dict()) == report
    for shown in (str(report), report.to_html()):
        assert "distance" in shown and "smaller is better" in shown
    plain = octify.convert(net(), x, rules="everywhere").report
    assert plain.metric is None
    # A report that an older version wrote has no such entry.
    document = plain.to_dict()
    del document["metric"]
    assert octify.Report.from_dict(document) == plain


def test_sweep_measures_the_original_once(tmp_path: Path) -> None:
    x, calls = torch.randn(1, 3, 16, 16), []
    level = [1.0]

    def judge(model: nn.Module) -> float:
        calls.append(model)
        return level[0]

    def run(**options: Any) -> list[str]:
        calls.clear()
        phases: list[str] = []
        octify.sweep(
            net(), x, (0.25, 0.5), ("everywhere",), directory=tmp_path, progress=phases.append, **options
        )
        return [phase for phase in phases if phase.endswith("done already")]

    assert not run(metric=judge)
    assert len(calls) == 3
    assert len(run(metric=judge)) == 2
    assert len(calls) == 1, "points that are done keep their values while the original has its"
    level[0] = 2.0
    assert not run(metric=judge), "another value of the original: the data changed"
    assert not run(), "a sweep without a metric is another one"


# The search for a drop, with a metric that the test can foretell: the MACs that the model saves.


@pytest.fixture
def data() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(3)]


def cost(model: nn.Module) -> float:
    """Share of the original's multiplications that a model does."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 8, 8))
    return float(counter.get_total_flops())


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize(("count", "most"), [(3, 0.2), (1, 0.3)])  # 16 inputs are too few to keep some aside
def test_the_cheapest_model_within_a_drop(data: list[torch.Tensor], most: float, count: int) -> None:
    whole = cost(net(16))

    def share(model: nn.Module) -> float:
        return cost(model) / whole

    result = octify.convert(
        *(net(16), data[0][:1]),
        rules="everywhere",
        calibration=data[:count],
        effort="norm",
        metric=share,
        target_drop=most,
    )
    row, metric = result.report.allocation, result.report.metric
    assert row is not None and metric is not None
    assert metric.keeps(most)
    assert metric.values[0].result == share(result.model.eval()), "the result itself was measured"
    # The drop is the saving: what is left of the bound is less than a step of the search.
    assert row.macs_ratio <= 1 - most + 0.1
    assert (row.target, row.target_value, row.trials) == ("drop", most, len(row.points))
    assert row.macs_ratio == min(point.macs_ratio for point in row.points if point.keeps)
    assert any(not point.keeps for point in row.points)
    assert result.report.alpha
    for shown in (str(result.report), result.report.to_html()):
        assert "odels tried" in shown
    assert octify.Report.from_dict(result.report.to_dict()) == result.report


@pytest.mark.usefixtures("short_calibration")
def test_a_drop_that_no_model_keeps(data: list[torch.Tensor]) -> None:
    values = iter([1.0, *[0.0] * 99])
    with pytest.raises(CheckFailed, match="cannot be kept within") as caught:
        octify.convert(
            *(net(16), data[0][:1]),
            rules="everywhere",
            calibration=data[:1],
            effort="norm",
            metric=lambda model: next(values),
            target_drop=0.5,
        )
    assert "drops by 1.0000" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target_drop": 0.1}, "needs calibration"),
        ({"target_drop": 0.1, "calibration": "synthetic"}, "needs a metric"),
        ({"target_drop": -1.0, "calibration": "synthetic", "metric": cost}, "0 or more"),
        ({"target_drop": 0.1, "target_macs": 0.5, "calibration": "synthetic", "metric": cost}, "excludes"),
        ({"metric": "judge.py:f"}, "is a str, not a function"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OctifyError, match=told):
        octify.convert(net(), torch.zeros(1, 3, 16, 16), **options)


def test_uniform_stops_fall_from_the_bound() -> None:
    traced = trace(net(), (torch.zeros(1, 3, 16, 16),))
    plans = Plans(traced, load_rules("everywhere"), "paper", ())
    for bound in (1.0, 0.8, 0.6):
        ratios = [plans.ratio(plan) for plan in plans.uniform_stops(bound)]
        assert ratios and ratios[0] <= bound
        assert all(a - b >= 0.01 for a, b in itertools.pairwise(ratios))
