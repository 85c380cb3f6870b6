"""Tables with header cells, and with exact values in the cells for sorting and for checks of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from octify.report.html.tags import Child, Markup, scroll_box, tag


@dataclass(frozen=True)
class Column:
    """Heading of a column; ``key`` names its cells, ``number`` aligns and sorts them as numbers."""

    key: str
    title: str
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """Displayed text, and the value behind it (numbers in full precision)."""

    shown: Child
    value: object


@dataclass(frozen=True)
class TableRow:
    """Cells in the order of the columns, the first of which heads the row; ``data`` is for filters."""

    cells: Sequence[Cell]
    data: Mapping[str, str] = field(default_factory=dict)


def table(
    key: str, caption: str, columns: Sequence[Column], rows: Sequence[TableRow], *, tall: bool = False
) -> Markup:
    """Render a table that page.js makes sortable, in a scroll box; ``tall`` ones scroll vertically too."""
    head = tag("tr", [_heading(column) for column in columns])
    body = [_row(columns, row) for row in rows]
    whole = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", head),
        tag("tbody", body),
        id=key,
        class_="sortable",
    )
    return scroll_box(caption, whole, class_="scroll tall" if tall else "scroll")


def _heading(column: Column) -> Markup:
    number = "number" if column.number else None
    return tag("th", column.title, scope="col", data_key=column.key, class_=number)


def _row(columns: Sequence[Column], row: TableRow) -> Markup:
    cells = []
    for place, (column, cell) in enumerate(zip(columns, row.cells, strict=True)):
        value = "" if cell.value is None else cell.value
        kind = "number" if column.number else None
        name, scope = ("th", "row") if place == 0 else ("td", None)
        cells.append(tag(name, cell.shown, scope=scope, data_value=value, class_=kind))
    data = {f"data_{key}": value for key, value in row.data.items()}
    return tag("tr", cells, **data)


def filters(key: str, kinds: Sequence[str]) -> Markup:
    """Render fields that filter the table ``key`` by text, kind and form; page.js shows them."""
    text = tag(
        "label",
        "Text ",
        tag("input", type="search", data_filter="text", autocomplete="off", placeholder="layer3, 1x1 ..."),
    )
    count = tag("span", class_="count", role="status")
    hint = tag("span", "Press a heading to sort.", class_="note")
    form = _select("Form ", "form", ("octave", "dense"))
    return tag(
        "div",
        text,
        _select("Kind ", "kind", kinds),
        form,
        count,
        hint,
        class_="filters",
        data_for=key,
        hidden=True,
    )


def _select(label: str, name: str, values: Sequence[str]) -> Markup:
    options = [tag("option", "all", value="")] + [tag("option", value, value=value) for value in values]
    return tag("label", label, tag("select", options, data_filter=name))


def plain_table(key: str, caption: str, heads: Sequence[str], rows: Sequence[Sequence[Child]]) -> Markup:
    """Render a small table without sorting; the first cell of a row is its header."""
    head = tag(
        "tr", [tag("th", title, scope="col", class_="number" if i else None) for i, title in enumerate(heads)]
    )
    body = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell, class_="number") for cell in row[1:]])
        for row in rows
    ]
    whole = tag(
        "table", tag("caption", caption, class_="unseen"), tag("thead", head), tag("tbody", body), id=key
    )
    return scroll_box(caption, whole)
