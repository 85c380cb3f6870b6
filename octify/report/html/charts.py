"""Charts: bars as a table, whose numbers can be read, and curves as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from octify.report.html.numbers import UNKNOWN
from octify.report.html.tags import Markup, scroll_box, tag

_WIDTH, _HEIGHT = 640.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 16.0, 14.0, 46.0


@dataclass(frozen=True)
class Bar:
    """One pair of bars, before and after, in the unit of the chart."""

    name: str
    before: float
    after: float


def bars(key: str, caption: str, unit: str, rows: Sequence[Bar]) -> Markup:
    """Render one row for each pair; lengths are relative to the longest."""
    longest = max((max(row.before, row.after) for row in rows), default=0.0) or 1.0
    total = sum(row.before for row in rows) or 1.0
    head = [
        tag("th", title, scope="col", class_=kind)
        for title, kind in (
            ("", None),
            ("before (grey) and after (blue)", "chart"),
            (f"{unit} before", "number"),
            (f"{unit} after", "number"),
            ("after / before", "number"),
            ("share of all before", "number"),
        )
    ]
    body = [
        tag(
            "tr",
            tag("th", row.name, scope="row"),
            tag(
                "td", _bar("before", row.before / longest), _bar("after", row.after / longest), class_="chart"
            ),
            tag("td", f"{row.before:.2f}", class_="number", data_value=row.before),
            tag("td", f"{row.after:.2f}", class_="number", data_value=row.after),
            tag("td", f"{row.after / row.before:.3f}" if row.before else UNKNOWN, class_="number"),
            tag("td", f"{row.before / total:.1%}", class_="number"),
        )
        for row in rows
    ]
    whole = tag(
        "table", tag("caption", caption, class_="unseen"), tag("thead", tag("tr", head)), tag("tbody", body)
    )
    return scroll_box(caption, tag("div", whole, id=key))


def _bar(kind: str, share: float) -> Markup:
    return tag("span", class_=f"bar {kind}", style=f"width:{100 * share:.2f}%")


@dataclass(frozen=True)
class Curve:
    """Points (x, y) by rising x; ``style`` 0 to 5 is its colour, ``dash`` 0 to 2 its line."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int
    dash: int = 0


@dataclass(frozen=True)
class Axes:
    """Labels of a chart of curves; ``mark`` is an x with a vertical line, and its label."""

    label: str
    x: str
    y: str
    logarithmic: bool = False
    mark: tuple[float, str] | None = None
    x_from_zero: bool = True


def curves(axes: Axes, rows: Sequence[Curve]) -> Markup:
    """Draw the curves with axes, grid and legend."""
    xs = [x for row in rows for x, _ in row.points]
    ys = [y for row in rows for _, y in row.points if y > 0 or not axes.logarithmic]
    if not xs or not ys:
        return tag("p", "There is nothing to draw.")
    x_ticks = _ticks(0.0 if axes.x_from_zero else min(xs), max(xs))
    y_ticks = _decades(min(ys), max(ys)) if axes.logarithmic else _ticks(min(0.0, *ys), max(0.0, *ys))
    frame = _Frame(x_ticks[0], max(xs[0], *xs), y_ticks[0], y_ticks[-1], axes.logarithmic)
    svg = tag(
        "svg",
        [_grid_x(frame, value) for value in x_ticks if value <= frame.right + 1e-9],
        [_grid_y(frame, value) for value in y_ticks],
        _marked(frame, axes),
        [_curve(frame, row) for row in rows],
        tag(
            "text", axes.x, x=f"{_WIDTH / 2:.0f}", y=f"{_HEIGHT - 8:.0f}", text_anchor="middle", class_="axis"
        ),
        tag(
            "text",
            axes.y,
            transform=f"translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)",
            text_anchor="middle",
            class_="axis",
        ),
        role="img",
        aria_label=axes.label,
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
    )
    legend = [tag("li", _sample(row), row.name) for row in rows]
    box = scroll_box(axes.label, svg, class_="scroll curves")
    return tag("figure", box, tag("figcaption", tag("ul", legend, class_="legend")))


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    low: float
    high: float
    logarithmic: bool

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left or 1.0)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high, value = (
            (map(math.log10, (self.low, self.high, max(value, self.low))))
            if self.logarithmic
            else (
                self.low,
                self.high,
                value,
            )
        )
        return _HEIGHT - _BOTTOM - (value - low) / (high - low or 1.0) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose ``low`` to ``high``."""
    raw = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [
        10.0**n
        for n in range(
            math.floor(math.log10(low)), max(math.ceil(math.log10(high)), math.floor(math.log10(low)) + 1) + 1
        )
    ]


def _grid_x(frame: _Frame, value: float) -> Markup:
    x = f"{frame.x(value):.1f}"
    line = tag("line", x1=x, x2=x, y1=f"{_TOP:.0f}", y2=f"{_HEIGHT - _BOTTOM:.0f}", class_="grid")
    text = tag(
        "text", f"{value:g}", x=x, y=f"{_HEIGHT - _BOTTOM + 16:.0f}", text_anchor="middle", class_="tick"
    )
    return Markup(line + text)


def _grid_y(frame: _Frame, value: float) -> Markup:
    y = frame.y(value)
    line = tag(
        "line", x1=f"{_LEFT:.0f}", x2=f"{_WIDTH - _RIGHT:.0f}", y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"
    )
    text = tag("text", f"{value:g}", x=f"{_LEFT - 6:.0f}", y=f"{y + 4:.1f}", text_anchor="end", class_="tick")
    return Markup(line + text)


def _marked(frame: _Frame, axes: Axes) -> Markup | None:
    if axes.mark is None:
        return None
    x = frame.x(axes.mark[0])
    line = tag(
        "line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{_TOP:.0f}", y2=f"{_HEIGHT - _BOTTOM:.0f}", class_="mark"
    )
    text = tag("text", axes.mark[1], x=f"{x + 6:.1f}", y=f"{_TOP + 12:.0f}", class_="tick")
    return Markup(line + text)


def _curve(frame: _Frame, row: Curve) -> Markup:
    places = [(frame.x(x), frame.y(y)) for x, y in row.points if y > 0 or not frame.logarithmic]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [
        tag(
            "circle",
            tag("title", f"{row.name}: {x:g}, {y:.4g}"),
            cx=f"{frame.x(x):.1f}",
            cy=f"{frame.y(y):.1f}",
            r=3.5,
        )
        for x, y in row.points
        if y > 0 or not frame.logarithmic
    ]
    return tag("g", tag("polyline", points=line), dots, class_=f"curve s{row.style} d{row.dash}")


def _sample(row: Curve) -> Markup:
    line = tag("line", x1=1, x2=27, y1=6, y2=6)
    group = tag("g", line, tag("circle", cx=14, cy=6, r=3.5), class_=f"curve s{row.style} d{row.dash}")
    return tag("svg", group, width=28, height=12, viewBox="0 0 28 12", aria_hidden="true", class_="sample")
