"""The option ``--metric`` and those that judge by it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from octify.cli.options.shared import RUNS_CODE
from octify.errors import CheckFailed, OctifyError

if TYPE_CHECKING:
    from torch import nn

    from octify.cli.session import Session
    from octify.conversion import Result
    from octify.metric.measure import Baseline
    from octify.report.metric import MetricRow

MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="FILE.py:FUNCTION",
        help="Function of a model to a number, or a dict of numbers, such as accuracy on your test set;"
        " larger is better. It is run on copies of the original and of the result, in eval mode, and every"
        f" report has both values and the drop. {RUNS_CODE}",
    ),
]
MetricLowerOption = Annotated[
    bool, typer.Option("--metric-lower", help="Smaller values of --metric are better, as with an error.")
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        metavar="X",
        help="Largest drop of any value of --metric to accept, in its own unit; above it, exit with code 1."
        " The result is written all the same.",
    ),
]
SweepDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        metavar="X",
        help="Largest drop of any value of --metric to accept, in its own unit: name the cheapest conversion"
        " within it; if there is none, exit with code 1. The results are written all the same.",
    ),
]
TargetDropOption = Annotated[
    float | None,
    typer.Option(
        "--target-drop",
        metavar="X",
        help="Largest drop of any value of --metric, in its own unit, in place of --alpha; searches for the"
        " cheapest such model, calibrates about eight of them as --calib-effort says, and reports each.",
    ),
]


@dataclass(frozen=True)
class MetricSettings:
    """The metric options of one run, as typed."""

    function: str | None
    lower: bool = False
    max_drop: float | None = None
    target_drop: float | None = None

    @property
    def file(self) -> Path | None:
        """File of the function."""
        return None if self.function is None else Path(self.function.rpartition(":")[0])

    def check(self) -> None:
        """Validate the options before torch is imported. Raises OctifyError."""
        from octify.metric.function import check_metric

        if self.function is not None:
            check_metric(self.function)
        else:
            self._refuse_strays()
        if self.max_drop is not None and not (self.max_drop >= 0 and math.isfinite(self.max_drop)):
            raise OctifyError(
                f"--max-drop is {self.max_drop:g}",
                why="it is how much worse than the original's a value may be: 0 or more, in its own unit",
                hint="--max-drop 0.01",
            )

    def _refuse_strays(self) -> None:
        values = {
            "--metric-lower": self.lower or None,
            "--max-drop": self.max_drop,
            "--target-drop": self.target_drop,
        }
        for option, value in values.items():
            if value is not None:
                raise OctifyError(
                    f"{option} needs --metric",
                    why="it is about the values of a function of yours",
                    hint=f"--metric FILE.py:FUNCTION {option}" + ("" if value is True else f" {value:g}"),
                )

    def baseline(self, run: Session, model: nn.Module) -> Baseline | None:
        """Load the function and measure the original, before any long work; None without a metric."""
        if self.function is None:
            return None
        from octify.metric.function import load_metric
        from octify.metric.measure import Baseline

        run.progress(f"measuring {self.function} of the original")
        return Baseline.of(load_metric(self.function, lower=self.lower), model)

    def require(self, row: MetricRow | None) -> None:
        """Raise CheckFailed when a value dropped by more than ``--max-drop``."""
        if self.max_drop is None or row is None or row.keeps(self.max_drop):
            return
        from octify.report.metric import number

        worst = row.worst
        raise CheckFailed(
            f"{worst.name} drops by {number(worst.drop)}, more than --max-drop {self.max_drop:g}",
            why=f"{row.function} is {number(worst.original)} of the original and {number(worst.result)} of"
            " the result",
            hint="a smaller --alpha, more --calib data, octify tune, or --target-drop to search",
        )


def judged(run: Session, result: Result, baseline: Baseline | None) -> tuple[Result, OctifyError | None]:
    """``result`` with the metric in its report, or as it was and the metric's error: it took long to make."""
    from octify.conversion import with_metric

    try:
        return with_metric(result, baseline, run.progress), None
    except OctifyError as error:
        warnings = (*result.report.warnings, f"the metric could not be measured: {error.what}")
        return replace(result, report=replace(result.report, warnings=warnings)), error
