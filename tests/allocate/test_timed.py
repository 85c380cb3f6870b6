"""A target for the latency: times are measured on whole models, here by a clock that counts MACs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.allocate import timed
from octify.errors import CheckFailed, OctifyError
from octify.latency.verdict import TimingSettings

pytestmark = pytest.mark.usefixtures("short_calibration")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu()).mean((2, 3))


@pytest.fixture
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [F.interpolate(torch.randn(48, 3, 6, 6, generator=generator), size=16, mode="bilinear")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Ten milliseconds for the original; others take as much of them as of its MACs."""
    times: list[float] = []

    def of_model(self: timed.Stopwatch, model: nn.Module) -> float:
        from octify.trace import trace

        macs = sum(facts.macs for facts in trace(model, self.inputs).facts.values())
        self.dense, self.count = 10.0, self.count + 1
        times.append(10.0 * macs / self.plans.dense_macs)
        return times[-1]

    monkeypatch.setattr(timed.Stopwatch, "of_model", of_model)
    return times


def converted(images: list[Tensor], milliseconds: float, **more: Any) -> octify.Result:
    return octify.convert(
        Net().eval(),
        torch.zeros(1, 3, 16, 16),
        target_latency=milliseconds,
        rules="everywhere",
        calibration=images,
        effort="fast",
        **more,
    )


@pytest.mark.parametrize("milliseconds", [7.0, 9.0])
def test_the_least_conversion_that_is_fast_enough(
    images: list[Tensor], clock: list[float], milliseconds: float
) -> None:
    result = converted(images, milliseconds)
    totals, allocation = result.report.totals, result.report.allocation
    took = 10.0 * totals.macs_after / totals.macs_before
    assert took <= milliseconds and clock[-1] == pytest.approx(took)
    assert took > milliseconds - 1.5  # stops are one percent of the MACs apart, sets of 8 channels coarser
    assert allocation is not None and allocation.target == "latency"
    assert "timed whole in onnxruntime, 1 thread: 10 ms dense" in allocation.why
    assert "milliseconds per call" in str(result.report)


def test_what_cannot_be_reached_is_told_with_the_fastest(images: list[Tensor], clock: list[float]) -> None:
    with pytest.raises(CheckFailed, match=r"cannot be brought down to 0\.1 ms") as told:
        converted(images, 0.1)
    assert f"{min(clock):.3g} ms" in str(told.value)


def test_an_original_that_is_fast_enough_is_told(images: list[Tensor], clock: list[float]) -> None:
    with pytest.raises(OctifyError, match="the original takes 10 ms"):
        converted(images, 11.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_is_a_number_of_milliseconds(images: list[Tensor], value: float) -> None:
    with pytest.raises(OctifyError, match="the target for the latency"):
        converted(images, value)


def test_two_targets_exclude_each_other(images: list[Tensor]) -> None:
    with pytest.raises(OctifyError, match="a target for the MACs excludes one for the latency"):
        converted(images, 5.0, target_macs=0.5)


def test_models_are_timed_in_the_runtime() -> None:
    from octify.allocate.plans import Plans
    from octify.planning.ruleset import load_rules
    from octify.trace import trace

    x = torch.zeros(1, 3, 16, 16)
    plans = Plans(trace(Net().eval(), x), load_rules("everywhere"), "paper", ())
    clock = timed.Stopwatch(plans, (x,), TimingSettings("onnxruntime", 1), lambda what: None)
    plan = plans.uniform(0.5)
    assert 0 < clock.of_plan(plan) == clock.of_plan(plans.uniform(0.5))
    assert clock.count == 1 and clock.dense > 0
