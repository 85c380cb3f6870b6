"""Section on costs: totals, and MACs by stage."""

from __future__ import annotations

from collections.abc import Sequence

from octify.report.html.charts import Bar, bars
from octify.report.html.numbers import ratio
from octify.report.html.tables import Column
from octify.report.html.tags import Child, Markup, scroll_box, tag
from octify.report.rows import LayerRow, Totals

_MOST_BARS = 24


def totals(row: Totals) -> Child:
    """Render the totals of the whole network."""
    lines = [
        ("macs", "MACs", row.macs_before, row.macs_after, 1e9, "GMACs"),
        ("flops", "FLOPs (2 for each MAC)", 2 * row.macs_before, 2 * row.macs_after, 1e9, "GFLOPs"),
        ("parameters", "parameters", row.parameters_before, row.parameters_after, 1e6, "million"),
        (
            "activation_bytes",
            "activation memory",
            row.activation_bytes_before,
            row.activation_bytes_after,
            2**20,
            "MiB",
        ),
    ]
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            _figure(f"{key}_before", before, f"{before / scale:.3f} {unit}"),
            _figure(f"{key}_after", after, f"{after / scale:.3f} {unit}"),
            tag("td", ratio(after, before), class_="number"),
        )
        for key, name, before, after, scale, unit in lines
    ]
    body += [
        _count(
            "converted",
            "convolutions in octave form",
            row.converted,
            f"{row.converted} of {row.convolutions}",
        ),
        _count("splits", "split layers", row.splits, str(row.splits)),
        _count("merges", "merge layers", row.merges, str(row.merges)),
    ]
    columns = [Column("", ""), *(Column(name, name, True) for name in ("before", "after", "after / before"))]
    head = [tag("th", c.title, scope="col", class_="number" if c.number else None) for c in columns]
    whole = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), id="totals-table")
    note = (
        "At the inputs named above. Activation memory is the sum of all values the network makes, not the "
        "most that are alive at once."
    )
    return [scroll_box("Totals", whole), tag("p", note, class_="note")]


def _figure(key: str, value: int, shown: str) -> Markup:
    return tag("td", shown, class_="number", data_total=key, data_value=value)


def _count(key: str, name: str, value: int, shown: str) -> Markup:
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", "0", class_="number"),
        _figure(key, value, shown),
        tag("td"),
    )


def stages(layers: Sequence[LayerRow]) -> Child:
    """Draw bars per stage: layers with a common path prefix, as finely as two dozen bars allow."""
    rows = _stages(layers)
    merged = len(rows) < len(layers)
    what = (
        "Layers whose paths begin alike are added up; the layer table below has every layer."
        if merged
        else ""
    )
    chart = [Bar(name, before / 1e6, after / 1e6) for name, before, after in rows]
    return [
        tag("p", f"In order of execution. {what}"),
        bars("macs-chart", "MACs before and after", "MMACs", chart),
    ]


def _stages(layers: Sequence[LayerRow]) -> list[tuple[str, int, int]]:
    """Name, MACs before and after; the deepest grouping with at most ``_MOST_BARS`` groups."""
    deepest = max((row.path.count(".") + 1 for row in layers), default=1)
    for depth in range(deepest, 0, -1):
        groups: dict[str, tuple[int, int]] = {}
        for row in layers:
            name = ".".join(row.path.split(".")[:depth])
            before, after = groups.get(name, (0, 0))
            groups[name] = before + row.macs_before, after + row.macs_after
        if len(groups) <= _MOST_BARS:
            break
    return [(name, *macs) for name, macs in groups.items()]
