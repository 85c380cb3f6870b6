"""Section on the user's own metric."""

from __future__ import annotations

from collections.abc import Iterator

from octify.report.html.tables import plain_table
from octify.report.html.tags import Child, tag
from octify.report.metric import MetricRow, number, title_of
from octify.report.model import ReportData

_NOT = (
    "Not measured: octify convert MODEL --metric FILE.py:FUNCTION runs a function of yours on the original "
    "and on the converted model."
)


def section(report: ReportData) -> Child:
    """Render the metric of the conversion and of every training that measured it."""
    parts: list[Child] = [] if report.metric is None else list(_conversion(report.metric))
    for i, row in enumerate(report.tuning):
        if row.metric_before is not None and row.metric_after is not None:
            parts += _training(row.metric_before, row.metric_after, i)
    return parts or tag("p", _NOT)


def _conversion(row: MetricRow) -> Iterator[Child]:
    yield tag("p", f"{title_of(row)}. A positive drop means that the converted model is worse.")
    rows = [[v.name, number(v.original), number(v.result), number(v.drop)] for v in row.values]
    yield plain_table("metric-values", "Metric", ["value", "original", "converted", "drop"], rows)


def _training(before: MetricRow, after: MetricRow, place: int) -> Iterator[Child]:
    yield tag("h3", f"Training {place + 1}")
    yield tag("p", f"{title_of(after)}.")
    rows = [
        [new.name, *map(number, (old.original, old.result, new.result, old.drop, new.drop))]
        for old, new in zip(before.values, after.values, strict=False)
    ]
    heads = ["value", "original", "before training", "after training", "drop before", "drop after"]
    yield plain_table(f"metric-tuning-{place}", "Metric before and after training", heads, rows)
