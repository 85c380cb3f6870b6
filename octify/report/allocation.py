"""The report's section on the choice of alphas to meet a target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from octify.report.metric import number

_SHOWN_PATHS = 4
UNITS = {
    "macs": "of the original's MACs",
    "error": "relative output error",
    "drop": "drop of the metric",
    "latency": "milliseconds per call",
}


@dataclass(frozen=True)
class SetRow:
    """Share of low channels of a coupled set, which is named by the convolutions that write it."""

    written_by: tuple[str, ...]
    alpha: float


@dataclass(frozen=True)
class RivalRow:
    """One way to meet the target: its MACs over the original's, and its relative output error."""

    macs_ratio: float
    relative_error: float | None


@dataclass(frozen=True)
class TrialRow:
    """One model that a search for a metric's drop calibrated and measured.

    alpha:
        Uniform alpha; None where every coupled set has its own.
    keeps:
        Whether its drop is within the target.
    """

    macs_ratio: float
    alpha: float | None
    relative_error: float
    drop: float
    keeps: bool


@dataclass(frozen=True)
class AllocationRow:
    """A target, the result, and the comparison of alpha per coupled set with a uniform alpha.

    target, target_value:
        ``"macs"`` (over the original's), ``"error"`` (relative output error), ``"drop"`` (of the metric) or
        ``"latency"`` (milliseconds), and its upper bound.
    macs_ratio:
        MACs of the chosen model over the original's.
    chosen, why:
        ``"per set"`` or ``"uniform"``, and the reason for the decision.
    effort:
        Calibration effort with which both were measured, on the inputs of the calibration report; "quick" for
        effort fast on few images, judged on others, with the channels of maps in units of their own.
    trials:
        Number of models measured during the search for a target error or drop.
    points:
        Those models, in the order of the search; empty for other targets.
    """

    target: str
    target_value: float
    macs_ratio: float
    chosen: str
    why: str
    sets: tuple[SetRow, ...]
    per_set: RivalRow | None
    uniform: RivalRow
    uniform_alpha: float
    effort: str
    trials: int
    points: tuple[TrialRow, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def render_allocation(row: AllocationRow) -> Iterator[RenderableType]:
    """Render the two candidates, then the alpha of every coupled set."""
    ways = Table(
        title=f"target: at most {row.target_value:g} {UNITS.get(row.target, row.target)}",
        title_justify="left",
        header_style="bold",
    )
    ways.add_column(f"with {row.effort} calibration")
    for name in ("MACs ratio", "relative output error", ""):
        ways.add_column(name, justify="right")
    for name, way, key in (
        ("alpha per coupled set", row.per_set, "per set"),
        (f"uniform alpha {row.uniform_alpha:.3g}", row.uniform, "uniform"),
    ):
        if way is not None:
            error = "-" if way.relative_error is None else f"{way.relative_error:.4f}"
            ways.add_row(name, f"{way.macs_ratio:.3f}", error, "chosen" if row.chosen == key else "")
    yield ways
    yield Text(row.why)
    if row.points:
        yield _trials(row.points)
    sets = Table(
        "channels written by", title="alpha per coupled set", title_justify="left", header_style="bold"
    )
    sets.add_column("alpha", justify="right")
    for each in row.sets:
        shown = ", ".join(each.written_by[:_SHOWN_PATHS])
        rest = len(each.written_by) - _SHOWN_PATHS
        more = f" and {rest} more" if rest > 0 else ""
        sets.add_row(shown + more, f"{each.alpha:.3g}" if each.alpha else "-")
    yield sets


def _trials(points: Sequence[TrialRow]) -> Table:
    table = Table("alpha", title="models tried", title_justify="left", header_style="bold")
    for name in ("MACs ratio", "relative output error", "drop of the metric", ""):
        table.add_column(name, justify="right")
    for each in points:
        table.add_row(
            alpha_of(each),
            f"{each.macs_ratio:.3f}",
            f"{each.relative_error:.4f}",
            number(each.drop),
            "keeps it" if each.keeps else "",
        )
    return table


def alpha_of(point: TrialRow) -> str:
    """Alpha of a model, for tables."""
    return "per coupled set" if point.alpha is None else f"{point.alpha:.3g}"
