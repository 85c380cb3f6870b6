"""A metric's values of the original and of a result, and their difference.

The function gets a copy in eval mode, and what it does to the copy, to random generators and to torch's
defaults is undone: a metric can take time, but change nothing of the result.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from octify.errors import OctifyError
from octify.metric.function import Metric, metric_of
from octify.report.metric import MetricRow, MetricValue
from octify.source.execute import running

ORIGINAL, RESULT = "the original", "the converted model"


@dataclass(frozen=True)
class MetricRun:
    """Values of a metric by name, and the seconds that the function took."""

    values: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Baseline:
    """A metric and its values of the original, with which results are compared.

    device:
        Device of the original, on which copies of results are put.
    """

    metric: Metric
    original: MetricRun
    device: torch.device | None

    @classmethod
    def of(cls, metric: Metric, model: nn.Module) -> Baseline:
        """Measure the original. Raises OctifyError as ``measure`` does."""
        device = next((p.device for p in model.parameters()), None)
        return cls(metric, measure(metric, model, ORIGINAL, device), device)

    def compare(self, model: nn.Module, what: str = RESULT) -> MetricRow:
        """Measure ``model`` and return both sides. Raises OctifyError as ``measure`` does."""
        mine, result = self.original, measure(self.metric, model, what, self.device)
        if mine.values.keys() != result.values.keys():
            lists = [", ".join(map(repr, each.values)) for each in (mine, result)]
            raise OctifyError(
                f"the metric {self.metric.name} returned other keys for {what}",
                where=self.metric.where,
                why=f"for the original {lists[0]}; for {what} {lists[1]}",
                hint="return the same keys for every model",
            )
        sign = -1.0 if self.metric.lower else 1.0
        values = tuple(
            MetricValue(name, value, result.values[name], sign * (value - result.values[name]) + 0.0)
            for name, value in mine.values.items()
        )
        return MetricRow(self.metric.name, self.metric.lower, values, mine.seconds, result.seconds)


def baseline_of(
    metric: Callable[[nn.Module], Any] | Baseline, model: nn.Module, *, lower: bool = False
) -> Baseline:
    """Measure ``metric`` on ``model``, the original, unless that was done before."""
    return metric if isinstance(metric, Baseline) else Baseline.of(metric_of(metric, lower=lower), model)


def measure(
    metric: Metric, model: nn.Module, what: str = RESULT, device: torch.device | None = None
) -> MetricRun:
    """Run ``metric`` on a copy of ``model`` in eval mode, on ``device``, without gradients.

    ``what`` is the model's name in errors. Raises OctifyError, with the line in the user's code, when the
    function fails or returns anything but finite numbers.
    """
    copied = copy.deepcopy(model).eval()
    copied = copied if device is None else copied.to(device)
    devices = sorted({p.device.index or 0 for p in copied.parameters() if p.device.type == "cuda"})
    start = time.perf_counter()
    with _undone(devices), running(metric.module, f"the metric {metric.name}, on {what},"):
        value = metric.function(copied)
    seconds = time.perf_counter() - start
    return MetricRun(_values(metric, value, what), seconds)


@contextlib.contextmanager
def _undone(devices: list[int]) -> Iterator[None]:
    """Restore on exit the state that calibration depends on and a function can change."""
    generators, dtype = (random.getstate(), np.random.get_state()), torch.get_default_dtype()
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_default_dtype(dtype)
        torch.set_deterministic_debug_mode(deterministic)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _values(metric: Metric, value: Any, what: str) -> dict[str, float]:
    """Check what the function returned; a single number gets the function's name."""
    if not isinstance(value, Mapping):
        return {metric.key: _number(metric, value, what, "")}
    if not value:
        raise _refusal(metric, what, "an empty dict", "return at least one number")
    for key in value:
        if not isinstance(key, str):
            raise _refusal(metric, what, f"a dict with the key {key!r}", "let the keys be strings")
    return {key: _number(metric, each, what, f" as {key!r}") for key, each in value.items()}


def _number(metric: Metric, value: Any, what: str, place: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        one = isinstance(value, Tensor) and value.numel() == 1
        hint = "return its .item()" if one else "return a float, or a dict of floats"
        raise _refusal(metric, what, f"{_shown(value)}{place}", hint)
    if not math.isfinite(float(value)):
        raise _refusal(
            metric, what, f"{float(value)}{place}", "a drop from or to it is no number: correct it"
        )
    return float(value)


def _refusal(metric: Metric, what: str, returned: str, hint: str) -> OctifyError:
    return OctifyError(
        f"the metric {metric.name} returned {returned}",
        where=metric.where,
        why=f"on {what}; a metric is a finite number, or a dict of them",
        hint=hint,
    )


def _shown(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
