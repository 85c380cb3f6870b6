"""HTML pages of two results side by side: conversions layer by layer, or sweeps point by point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octify.report.comparison import (
    POINT_HEADS,
    Comparison,
    Figure,
    LayerPair,
    PointPair,
    alphas,
    figures_of,
)
from octify.report.html.charts import Axes, Curve, curves
from octify.report.html.numbers import UNKNOWN, fixed, kind_of
from octify.report.html.page import Fragment, page
from octify.report.html.tables import Cell, Column, TableRow, filters, plain_table, table
from octify.report.html.tags import Child, tag
from octify.report.rows import Point

_NO_ACCURACY = "Not measured: octify convert MODEL --calib DATA --metric FILE.py:FUNCTION measures it."
_NO_LATENCY = "Not measured: octify bench DIR --json > DIR/bench.json times a result against its original."


def comparison_page(row: Comparison) -> str:
    """Render two conversions as one page."""
    parts = [
        Fragment("cost", "Cost", _figures("cost-table", row, row.cost)),
        Fragment("accuracy", "Accuracy", _figures("accuracy-table", row, row.accuracy, _NO_ACCURACY)),
        Fragment("latency", "Latency", _figures("latency-table", row, row.latency, _NO_LATENCY)),
        Fragment("layers", "Layers", _layers(row)),
    ]
    if row.remarks:
        listed = tag("ul", [tag("li", f"{each[:1].upper()}{each[1:]}.") for each in row.remarks])
        parts.insert(0, Fragment("remarks", "Before you compare", listed))
    return page(f"{row.names[0]} and {row.names[1]}", _lead(row.names), parts, row.to_dict())


def _lead(names: tuple[str, str]) -> Child:
    return tag("p", f"Two results side by side. Differences are {names[1]} less {names[0]}.")


def _figures(key: str, row: Comparison, figures: Sequence[Figure], absent: str = "") -> Child:
    if not figures:
        return tag("p", absent)
    rows = [[each.name, each.shown_a, each.shown_b, each.difference] for each in figures]
    return plain_table(key, key.partition("-")[0].capitalize(), ["", *row.names, "difference"], rows)


def _layers(row: Comparison) -> Child:
    a, b = row.names
    columns = [
        Column("path", "layer"),
        Column("kind", "kind"),
        Column("differs", "differs"),
        Column("macs_before", "MMACs of the original", True),
        Column("alpha_a", f"alpha in > out, {a}"),
        Column("alpha_b", f"alpha in > out, {b}"),
        Column("macs_a", f"MMACs, {a}", True),
        Column("macs_b", f"MMACs, {b}", True),
        Column("macs_difference", "difference", True),
    ]
    measured = any(pair.error_a is not None or pair.error_b is not None for pair in row.layers)
    errors = [Column("error_a", f"error, {a}", True), Column("error_b", f"error, {b}", True)]
    columns += errors if measured else []
    kinds = sorted({kind_of(pair.kind) for pair in row.layers})
    count = sum(pair.differs for pair in row.layers)
    return [
        tag("p", f"{count} of {len(row.layers)} layers differ."),
        filters("pair-table", kinds),
        table("pair-table", "Layers", columns, [_layer(pair, measured) for pair in row.layers], tall=True),
    ]


def _layer(pair: LayerPair, measured: bool) -> TableRow:
    a, b = pair.macs_a, pair.macs_b
    difference = None if a is None or b is None else b - a
    cells = [
        Cell(pair.path, pair.path),
        Cell(kind_of(pair.kind), pair.kind),
        Cell("yes" if pair.differs else "no", int(pair.differs)),
        Cell(f"{pair.macs_before / 1e6:.2f}", pair.macs_before),
        Cell(alphas(pair.alpha_a), alphas(pair.alpha_a)),
        Cell(alphas(pair.alpha_b), alphas(pair.alpha_b)),
        *(Cell(UNKNOWN if macs is None else f"{macs / 1e6:.2f}", macs) for macs in (a, b)),
        Cell(UNKNOWN if difference is None else f"{difference / 1e6:+.2f}", difference),
    ]
    if measured:
        cells += [Cell(fixed(error, 4), error) for error in (pair.error_a, pair.error_b)]
    octave = any(share for side in (pair.alpha_a, pair.alpha_b) if side for share in side)
    return TableRow(cells, {"kind": kind_of(pair.kind), "form": "octave" if octave else "dense"})


def sweeps_page(names: tuple[str, str], pairs: Sequence[PointPair], document: Mapping[str, Any]) -> str:
    """Render two sweeps as one page, with ``document`` as its data."""
    parts = [
        Fragment("points", "Conversions", _points(names, pairs)),
        Fragment("error", "Error against MACs", _against(names, pairs, "error", lambda point: point.error)),
        Fragment("metric", "Drop of the metric against MACs", _against(names, pairs, "drop", _drop)),
        Fragment(
            "latency",
            "Speed-up against MACs",
            _against(names, pairs, "speed-up", lambda point: point.speedup),
        ),
    ]
    return page(f"{names[0]} and {names[1]}", tag("p", "Two sweeps side by side."), parts, document)


def _points(names: tuple[str, str], pairs: Sequence[PointPair]) -> Child:
    columns = [Column("rules", "rules"), Column("alpha", "alpha", True)]
    columns += [
        Column(f"{head}-{side}".replace(" ", "-"), f"{head}, {name}", True)
        for head in POINT_HEADS
        for side, name in zip("ab", names, strict=True)
    ]
    rows = []
    for pair in pairs:
        cells = zip(figures_of(pair.a), figures_of(pair.b), strict=True)
        shown = [Cell(text, text) for two in cells for text in two]
        rows.append(TableRow([Cell(pair.rules, pair.rules), Cell(f"{pair.alpha:g}", pair.alpha), *shown]))
    return table("pair-table", "Conversions", columns, rows)


def _drop(point: Point) -> float | None:
    return None if point.metric is None else point.metric.drop


def _against(
    names: tuple[str, str], pairs: Sequence[PointPair], what: str, value: Callable[[Point], float | None]
) -> Child:
    """Curves of ``value`` against the share of MACs, one for each sweep and rule set."""
    rules = list(dict.fromkeys(pair.rules for pair in pairs))
    drawn = []
    for style, name in enumerate(names):
        for dash, each in enumerate(rules):
            sides = [(pair.a, pair.b)[style] for pair in pairs if pair.rules == each]
            points = [(p.macs_ratio, y) for p in sides if p is not None and (y := value(p)) is not None]
            if points:
                label = f"{name} ({each})" if len(rules) > 1 else name
                drawn.append(Curve(label, sorted(points), 3 * style, dash % 3))
    if not drawn:
        return tag("p", "Not measured in either sweep.")
    return curves(Axes(f"{what} against MACs", "MACs, share of the original", what, x_from_zero=False), drawn)
