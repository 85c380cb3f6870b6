"""``octify.sensitivity``: every coupled set of a model by itself, at several alphas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octify.allocate.plans import Plans
from octify.allocate.sensitivity import measure_sensitivity, rules_without
from octify.calibrate.options import Calibration
from octify.calibrate.recipe import images_of
from octify.checks.alpha import check_alpha, check_worst
from octify.checks.door import check_model
from octify.errors import OctifyError
from octify.kernels.taps import Scheme
from octify.metric.measure import Baseline, baseline_of
from octify.planning.ruleset import load_rules
from octify.progress import Tell, counting
from octify.report.sensitivity import Sensitivity
from octify.source.dtype import examples_of
from octify.trace.proof import proved

if TYPE_CHECKING:
    from torch import nn

    from octify.conversion import Inputs


@dataclass(frozen=True)
class SensitivityResult:
    """Rows of a sensitivity, and the plans that can leave out the worst. ``print`` shows the rows."""

    rows: Sensitivity
    plans: Plans

    def rules(self, worst: float = 0.1) -> str:
        """Rule file (TOML) that keeps the most sensitive sets dense: a share ``worst`` of all, rounded up."""
        return rules_without(self.rows.worst(check_worst(worst)), self.plans, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of the rows."""
        return self.rows.to_dict()

    def to_csv(self) -> str:
        """Table of the rows: one row for every set and alpha."""
        return self.rows.to_csv()

    def __str__(self) -> str:
        return str(self.rows)


def sensitivity(
    model: nn.Module,
    example_inputs: Inputs,
    calibration: Iterable[Any] | str,
    alphas: Sequence[float] = (0.25, 0.5, 0.75),
    rules: str | Path = "default",
    kernels: Scheme = "paper",
    exclude: Sequence[str] = (),
    *,
    seed: int = 0,
    metric: Callable[[nn.Module], Any] | Baseline | None = None,
    metric_lower: bool = False,
    latency: int | None = None,
    progress: Tell | None = None,
) -> SensitivityResult:
    """Measure what every coupled set of channels costs in error and saves in MACs, alone, at ``alphas``.

    Parameters
    ----------
    model, example_inputs, rules, kernels, exclude, seed, metric, metric_lower, progress:
        See ``octify.convert``. The metric is run on every trial: once for each set and alpha.
    calibration:
        Inputs, as for ``octify.convert``: one half calibrates the trials, the other measures them.
    alphas:
        Shares of low channels, above 0 and at most 1; each set takes its nearest possible shares.
    latency:
        Number of onnxruntime's threads for measured milliseconds; None measures none. Times come from a
        table (``octify.latency.operators.table``), whose missing entries are measured first.

    Raises
    ------
    OctifyError
        As ``octify.convert`` does, and for too few inputs.
    CheckFailed
        Where no set can be octave by itself.
    """
    check_model(model)
    shares = [check_alpha(alpha) for alpha in dict.fromkeys(alphas)]
    if not shares or min(shares) == 0:
        raise OctifyError("sensitivity is measured at alphas above 0", hint="--alpha 0.25,0.5,0.75")
    tell = progress or (lambda phase: None)
    options, policy = Calibration(calibration, "fast", seed=seed), load_rules(rules)
    tell("tracing")
    traced = proved(model, examples_of(model, example_inputs))
    if metric is not None:
        tell("measuring the metric of the original")
    baseline = None if metric is None else baseline_of(metric, model, lower=metric_lower)
    plans = Plans(traced, policy, kernels, exclude)
    images = images_of(traced, options, progress=counting(tell, "inputs"))
    costs = table = None
    if latency is not None:
        # With onnxruntime, which takes a while to import.
        from octify.latency.operators.costs import OnnxruntimeCosts
        from octify.latency.operators.table import OperatorTable

        table = OperatorTable(latency, progress=tell)
        costs = OnnxruntimeCosts(table, kernels)
    try:
        rows = measure_sensitivity(
            plans,
            images,
            shares,
            model=type(model).__name__,
            seed=seed,
            costs=costs,
            threads=latency,
            baseline=baseline,
            progress=counting(tell, "sensitivity"),
        )
    finally:
        if table is not None:
            table.save()  # of a run that was stopped, too: times take long to measure
    return SensitivityResult(rows, plans)
