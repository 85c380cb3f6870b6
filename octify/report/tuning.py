"""The report's section on tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from octify.compare.agreement import OutputError
from octify.report.metric import MetricRow, render_tuned


@dataclass(frozen=True)
class TuningRow:
    """A run of ``octify tune``: its settings, and the accuracy before and after, on ``measured_on`` inputs.

    labels:
        Whether training used labels; ``distill_weight`` is then the weight of distillation.
    batch:
        Batch size of a step, summed over all ``processes``.
    images:
        Number of training inputs.
    held_out:
        Whether the inputs of the measurement were held out from training.
    accuracy_original, accuracy_before, accuracy_after:
        Share of correct predictions; None without labels.
    resumed_at:
        Step after which the run was last resumed; 0 if it was not.
    run, began_with:
        Digests of all that determines the run, and of its initial weights (``tune.finished``).
    metric_before, metric_after:
        The user's metric of the model before and after training; None without one.
    """

    labels: bool
    distill_weight: float
    steps: int
    batch: int
    lr: float
    weight_decay: float
    norm: str
    augment: str
    precision: str
    seed: int
    images: int
    measured_on: int
    held_out: bool
    before: OutputError
    after: OutputError
    accuracy_original: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    processes: int
    device: str
    seconds: float
    resumed_at: int
    run: str | None = None
    began_with: str | None = None
    metric_before: MetricRow | None = None
    metric_after: MetricRow | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def render_tuning(row: TuningRow) -> Iterator[RenderableType]:
    """Render output error, agreement and accuracy before and after."""
    aim = f"labels and {row.distill_weight:.0%} distillation" if row.labels else "distillation"
    kind = "held-out" if row.held_out else "training"
    table = Table(
        title=f"tuning: {aim}, {row.steps} steps of {row.batch}, {row.images} inputs, precision"
        f" {row.precision}, {row.seconds:.0f} s",
        title_justify="left",
        header_style="bold",
    )
    table.add_column(f"on {row.measured_on} {kind} inputs")
    for name in ("original", "before", "after"):
        table.add_column(name, justify="right")
    before, after = row.before, row.after
    table.add_row("relative output error", "", f"{before.relative_error:.4f}", f"{after.relative_error:.4f}")
    if before.agreement is not None and after.agreement is not None:
        table.add_row("same answer as the original", "", f"{before.agreement:.1%}", f"{after.agreement:.1%}")
    if row.accuracy_before is not None and row.accuracy_after is not None:
        table.add_row(
            "accuracy",
            f"{row.accuracy_original or 0:.1%}",
            f"{row.accuracy_before:.1%}",
            f"{row.accuracy_after:.1%}",
        )
    yield table
    if row.metric_before is not None and row.metric_after is not None:
        yield from render_tuned(row.metric_before, row.metric_after)
