"""The report's section on the user's own metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

_FLOAT32 = 2.0**-23  # metrics are often means in float32: a drop is known no better


@dataclass(frozen=True)
class MetricValue:
    """One value of the metric, of the original and of the result; ``drop`` is positive where it got worse."""

    name: str
    original: float
    result: float
    drop: float


@dataclass(frozen=True)
class MetricRow:
    """A metric's values.

    function:
        Name of the function, such as ``evaluate.py:accuracy``.
    lower:
        Whether smaller values are better.
    seconds_original, seconds:
        Seconds that the function took on the original and on the result.
    """

    function: str
    lower: bool
    values: tuple[MetricValue, ...]
    seconds_original: float
    seconds: float

    @property
    def worst(self) -> MetricValue:
        """The value with the largest drop."""
        return max(self.values, key=lambda value: value.drop)

    @property
    def drop(self) -> float:
        """The largest drop of any value."""
        return self.worst.drop

    def keeps(self, most: float) -> bool:
        """Return whether no value drops by more than ``most``, but for the rounding of float32."""
        return all(
            each.drop <= most + _FLOAT32 * max(abs(each.original), abs(each.result)) for each in self.values
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def number(value: float) -> str:
    """Format a value or a drop: four decimals, or five digits where that would show less."""
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1e5 else f"{value:.5g}"


def title_of(row: MetricRow) -> str:
    """Name of the metric and its direction, with the seconds that it took."""
    direction = "smaller is better" if row.lower else "larger is better"
    return (
        f"{row.function} ({direction}; {row.seconds_original:.1f} s on the original, "
        f"{row.seconds:.1f} s on the result)"
    )


def render_metric(row: MetricRow) -> Iterator[RenderableType]:
    """Render the values of the original and of the result, and the drop."""
    table = _table(f"metric: {title_of(row)}", ("original", "result", "drop"))
    for each in row.values:
        table.add_row(each.name, number(each.original), number(each.result), number(each.drop))
    yield table


def render_tuned(before: MetricRow, after: MetricRow) -> Iterator[RenderableType]:
    """Render the values before and after training beside the original's."""
    heads = ("original", "before", "after", "drop before", "drop after")
    table = _table(f"metric: {title_of(after)}", heads)
    for old, new in zip(before.values, after.values, strict=False):
        shown = (old.original, old.result, new.result, old.drop, new.drop)
        table.add_row(new.name, *map(number, shown))
    yield table


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table("value", title=title, title_justify="left", header_style="bold")
    for head in heads:
        table.add_column(head, justify="right")
    return table
