"""Display of a sweep on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

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
    for point in points:
        table.add_row(*_cells(point, calibrated, timed))
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
