"""Display of a sweep on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from octify.report.metric import number

if TYPE_CHECKING:
    from octify.report.rows import Point


def render_sweep(points: Sequence[Point], model: str) -> Table:
    """Render one row for each conversion; ratios are relative to the original."""
    table = Table(title=f"{model}: sweep over alpha", title_justify="left", header_style="bold")
    table.add_column("rules")
    for name in ("alpha", "GMACs", "MACs ratio", "activations ratio", "octave", "splits / merges"):
        table.add_column(name, justify="right")
    calibrated = any(point.error is not None for point in points)
    timed = any(point.milliseconds is not None for point in points)
    for name in ("error uncalibrated", "error", "agreement") if calibrated else ():
        table.add_column(name, justify="right")
    for name in ("ms", "speed-up", "efficiency") if timed else ():
        table.add_column(name, justify="right")
    names = metric_names(points)
    for name in names:
        table.add_column(name, justify="right")
    if names:
        table.add_column("drop", justify="right")
    for point in points:
        table.add_row(*_cells(point, calibrated, timed), *_metric(point, names))
    return table


def _cells(point: Point, calibrated: bool, timed: bool) -> list[str]:
    cells = [
        point.rules,
        f"{point.alpha:g}",
        f"{point.macs / 1e9:.3f}",
        f"{point.macs_ratio:.3f}",
        f"{point.activation_ratio:.3f}",
        f"{point.converted} of {point.convolutions}",
        f"{point.splits} / {point.merges}",
    ]
    if calibrated:
        cells += [_value(point.error_uncalibrated, ".4f"), _value(point.error, ".4f")]
        cells.append(_value(point.agreement, ".1%"))
    if timed:
        cells += [_value(point.milliseconds, ".2f"), _value(point.speedup, ".2f")]
        cells.append(_value(point.speedup and point.speedup * point.macs_ratio, ".2f"))
    return cells


def _value(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def metric_names(points: Sequence[Point]) -> list[str]:
    """Names of all values of the metric."""
    rows = [point.metric for point in points if point.metric is not None]
    return list(dict.fromkeys(value.name for row in rows for value in row.values))


def metric_of(point: Point, name: str) -> float | None:
    """Value ``name`` of a point's metric; None where it was not measured."""
    values = point.metric.values if point.metric is not None else ()
    return next((value.result for value in values if value.name == name), None)


def _metric(point: Point, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    values = [metric_of(point, name) for name in names]
    shown = ["-" if value is None else number(value) for value in values]
    return [*shown, "-" if point.metric is None else number(point.metric.drop)]
