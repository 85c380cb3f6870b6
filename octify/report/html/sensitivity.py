"""HTML page of a sensitivity: every coupled set, sortable, and the errors of the worst as curves."""

from __future__ import annotations

from octify.report.html.charts import Axes, Curve, curves
from octify.report.html.numbers import UNKNOWN, fixed, percent
from octify.report.html.page import Fragment, page
from octify.report.html.tables import Cell, Column, TableRow, table
from octify.report.html.tags import Child, tag
from octify.report.metric import number
from octify.report.sensitivity import Sensitivity, SetSensitivity, alphas_of, error_at, notes

_DRAWN = 12


def sensitivity_page(row: Sensitivity, target: str, rules: str = "") -> str:
    """Render ``row``, of the model ``target``, as one page, with a rule file that leaves out the worst."""
    parts = [
        Fragment("sets", "Coupled sets", _table(row)),
        Fragment("error", "Error against MACs saved", _curves(row.sets, milliseconds=False)),
    ]
    if row.milliseconds is not None:
        parts.append(Fragment("time", "Error against time saved", _curves(row.sets, milliseconds=True)))
    if rules:
        text = "Saved as a .toml file, octify convert MODEL --rules FILE uses it."
        parts.append(Fragment("rules", "Rules without the worst", [tag("p", text), tag("pre", rules)]))
    lead = [
        tag(
            "p",
            "Channels that meet in one addition or depthwise convolution form a coupled set. Here each set "
            "alone has low channels: what that costs, and what it saves. Rules that keep the most expensive "
            "dense leave their error out.",
        ),
        *(tag("p", line) for line in notes(row)),
    ]
    return page(f"Sensitivity of {target}", lead, parts, row.to_dict())


def _table(row: Sensitivity) -> Child:
    alphas = alphas_of(row.sets)
    columns = [Column("written_by", "channels written by"), Column("channels", "channels", True)]
    columns += [Column(f"error-{alpha:g}", f"error at alpha {alpha:g}", True) for alpha in alphas]
    columns += [Column("macs_saved", "MACs saved", True), Column("price", "error per % of the MACs", True)]
    if row.milliseconds is not None:
        columns.append(Column("milliseconds_saved", "ms saved", True))
    if row.metric is not None:
        columns.append(Column("drop", f"drop of {row.metric}", True))
    rows = [_row(row, each, alphas) for each in row.sets]
    return table("sensitivity-table", "Coupled sets", columns, rows, tall=True)


def _row(row: Sensitivity, each: SetSensitivity, alphas: list[float]) -> TableRow:
    point, names = each.middle, ", ".join(each.written_by)
    errors = [error_at(each, alpha) for alpha in alphas]
    price = point.price if point.macs_saved > 0 else None
    cells = [Cell(names, names), Cell(str(each.channels), each.channels)]
    cells += [Cell(fixed(error, 4), error) for error in errors]
    cells.append(Cell(percent(point.macs_saved), point.macs_saved))
    # A set that saves nothing is worse than any that does.
    cells.append(Cell("saves none" if price is None else f"{price:.3g}", 1e9 if price is None else price))
    if row.milliseconds is not None:
        cells.append(Cell(fixed(point.milliseconds_saved, 3), point.milliseconds_saved))
    if row.metric is not None:
        shown = UNKNOWN if point.drop is None else number(point.drop)
        cells.append(Cell(shown, point.drop))
    return TableRow(cells)


def _curves(sets: tuple[SetSensitivity, ...], *, milliseconds: bool) -> Child:
    """Errors at rising alphas against what is saved there, of the sets with the largest errors per MAC."""
    drawn = []
    for place, row in enumerate(sets[:_DRAWN]):
        saved = [
            ((p.milliseconds_saved or 0.0) if milliseconds else 100 * p.macs_saved, p.error)
            for p in row.points
        ]
        drawn.append(Curve(row.name, [(0.0, 0.0), *sorted(saved)], place % 6, place // 6))
    unit = "milliseconds saved" if milliseconds else "MACs saved, % of the original's"
    few = f"The {_DRAWN} sets with the largest error for every MAC saved." if len(sets) > _DRAWN else ""
    axes = Axes(f"Error against {unit}", unit, "relative output error", x_from_zero=not milliseconds)
    return [tag("p", f"Every set from dense to its largest alpha. {few}"), curves(axes, drawn)]
