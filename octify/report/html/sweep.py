"""HTML page of a sweep: one model at several alphas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octify.report.html.charts import Axes, Curve, curves
from octify.report.html.numbers import UNKNOWN, fixed, percent
from octify.report.html.page import Fragment, page
from octify.report.html.tables import Cell, Column, TableRow, table
from octify.report.html.tags import Child, tag
from octify.report.metric import number
from octify.report.rows import Point
from octify.report.sweep import metric_names, metric_of

_COLUMNS = (
    Column("name", "conversion"),
    Column("rules", "rules"),
    Column("alpha", "alpha", True),
    Column("macs", "GMACs", True),
    Column("macs_ratio", "MACs ratio", True),
    Column("parameters_ratio", "parameters ratio", True),
    Column("activation_ratio", "activation memory ratio", True),
    Column("converted", "octave convolutions", True),
    Column("splits", "splits", True),
    Column("merges", "merges", True),
)
_ERRORS = (
    Column("error_uncalibrated", "error uncalibrated", True),
    Column("error", "error calibrated", True),
    Column("agreement", "same answer", True),
)
_TIMES = (Column("milliseconds", "ms per call", True), Column("speedup", "speed-up", True))


def sweep_page(points: Sequence[Point], target: str, document: Mapping[str, Any]) -> str:
    """Render the points of a sweep of the model ``target`` as one page, with ``document`` (sweep.json)."""
    parts = [
        Fragment("points", "Conversions", _table(points)),
        Fragment("cost", "Cost against alpha", _costs(points)),
        Fragment("error", "Error against alpha", _errors(points)),
        Fragment("metric", "Metric against MACs", _metric(points)),
        Fragment("latency", "Latency against alpha", _latencies(points)),
    ]
    lead = tag(
        "p",
        "Each row is the model converted with another share alpha of its channels at half resolution. "
        "Ratios are to the original. Every conversion has a folder of its own, named as in the first "
        "column.",
    )
    return page(f"{target} at several alphas", lead, parts, document)


def _table(points: Sequence[Point]) -> Child:
    calibrated = any(point.error is not None for point in points)
    timed = any(point.milliseconds is not None for point in points)
    names = metric_names(points)
    judged = [*(Column(f"metric-{name}", name, True) for name in names), Column("drop", "drop", True)]
    columns = [*_COLUMNS, *(_ERRORS if calibrated else ()), *(_TIMES if timed else ())]
    columns += judged if names else []
    rows = [TableRow([*_cells(point, calibrated, timed), *_judged(point, names)]) for point in points]
    return table("points-table", "Conversions", columns, rows)


def _judged(point: Point, names: Sequence[str]) -> list[Cell]:
    values = [metric_of(point, name) for name in names]
    values += [None if point.metric is None else point.metric.drop] if names else []
    return [Cell(UNKNOWN if value is None else number(value), value) for value in values]


def _cells(point: Point, calibrated: bool, timed: bool) -> list[Cell]:
    cells = [
        Cell(point.name, point.name),
        Cell(point.rules, point.rules),
        Cell(f"{point.alpha:g}", point.alpha),
        Cell(f"{point.macs / 1e9:.3f}", point.macs),
        Cell(f"{point.macs_ratio:.3f}", point.macs_ratio),
        Cell(f"{point.parameters_ratio:.3f}", point.parameters_ratio),
        Cell(f"{point.activation_ratio:.3f}", point.activation_ratio),
        Cell(f"{point.converted} of {point.convolutions}", point.converted),
        Cell(str(point.splits), point.splits),
        Cell(str(point.merges), point.merges),
    ]
    if calibrated:
        cells += [
            Cell(fixed(point.error_uncalibrated, 4), point.error_uncalibrated),
            Cell(fixed(point.error, 4), point.error),
            Cell(percent(point.agreement), point.agreement),
        ]
    if timed:
        cells += [
            Cell(fixed(point.milliseconds, 2), point.milliseconds),
            Cell(fixed(point.speedup, 2), point.speedup),
        ]
    return cells


def _costs(points: Sequence[Point]) -> Child:
    rows = [
        *_curves(points, "MACs", lambda point: point.macs_ratio, 0, start=1.0),
        *_curves(points, "activation memory", lambda point: point.activation_ratio, 2, start=1.0),
    ]
    axes = Axes(
        "MACs and activation memory against alpha", "alpha, share of low channels", "share of the original"
    )
    return [tag("p", "Alpha 0 is the original."), curves(axes, rows)]


def _errors(points: Sequence[Point]) -> Child:
    rows = [
        *_curves(points, "uncalibrated", lambda point: point.error_uncalibrated, 4),
        *_curves(points, "calibrated", lambda point: point.error, 3),
    ]
    if not rows:
        return tag(
            "p",
            "Not measured: octify sweep MODEL --calib DATA repairs every conversion and measures its error.",
        )
    axes = Axes(
        "Relative output error against alpha", "alpha, share of low channels", "relative output error"
    )
    return curves(axes, rows)


def _metric(points: Sequence[Point]) -> Child:
    rows = [point.metric for point in points if point.metric is not None]
    if not rows:
        return tag(
            "p",
            "Not measured: octify sweep MODEL --metric FILE.py:FUNCTION runs a function of yours on every "
            "conversion.",
        )
    drawn = [
        Curve(f"{name} ({each})", curve, style % 6, dash % 3)
        for dash, each in enumerate(dict.fromkeys(point.rules for point in points))
        for style, name in enumerate(metric_names(points))
        if (curve := _against_macs(points, each, name))
    ]
    originals = {value.name: value.original for value in rows[0].values}
    listed = ", ".join(f"{name} {number(value)}" for name, value in originals.items())
    better = "smaller is better" if rows[0].lower else "larger is better"
    axes = Axes("Metric against MACs", "MACs, share of the original", "metric", x_from_zero=False)
    return [tag("p", f"{rows[0].function}, {better}. The original, at 1: {listed}."), curves(axes, drawn)]


def _against_macs(points: Sequence[Point], rules: str, name: str) -> list[tuple[float, float]]:
    """Value ``name`` of the conversions under ``rules`` by their share of MACs, and the original's at 1."""
    own = [point for point in points if point.rules == rules]
    pairs = [(point.macs_ratio, y) for point in own if (y := metric_of(point, name)) is not None]
    values = (value for point in own if point.metric is not None for value in point.metric.values)
    original = next((value.original for value in values if value.name == name), None)
    return sorted(pairs) + ([(1.0, original)] if original is not None else [])


def _latencies(points: Sequence[Point]) -> Child:
    rows = _curves(
        points, "latency", lambda point: 1 / point.speedup if point.speedup else None, 1, start=1.0
    )
    if not rows:
        return tag(
            "p", "Not measured: octify sweep MODEL --bench times every conversion against the original."
        )
    axes = Axes("Latency against alpha", "alpha, share of low channels", "share of the original's time")
    return curves(axes, rows)


def _curves(
    points: Sequence[Point],
    name: str,
    value: Callable[[Point], float | None],
    style: int,
    start: float | None = None,
) -> list[Curve]:
    """Build one curve for each rule set that has the value."""
    rules = list(dict.fromkeys(point.rules for point in points))
    curves_drawn = []
    for dash, each in enumerate(rules):
        own = sorted((point for point in points if point.rules == each), key=lambda point: point.alpha)
        measured = [(point.alpha, y) for point in own if (y := value(point)) is not None]
        origin = [(0.0, start)] if start is not None and measured and measured[0][0] > 0 else []
        if measured:
            curves_drawn.append(
                Curve(f"{name} ({each})" if len(rules) > 1 else name, origin + measured, style, dash % 3)
            )
    return curves_drawn
