"""Sensitivity of every coupled set: what its low channels cost in error, and save in MACs and time."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from octify.checks.printable import Printable
from octify.report.metric import number

_SHOWN_PATHS = 3


@dataclass(frozen=True)
class SensitivityPoint:
    """A model in which one coupled set alone is octave.

    alpha, share:
        Requested share of low channels, and what it rounds to.
    macs_saved:
        MACs saved, as a share of the original's.
    error:
        Relative output error after a fast calibration, on inputs that it did not use.
    milliseconds_saved:
        Measured time of the operators that it replaces, less that of its own; None without a measurement.
    drop:
        Largest drop of the user's metric; None without one.
    """

    alpha: float
    share: float
    macs_saved: float
    error: float
    milliseconds_saved: float | None = None
    drop: float | None = None

    @property
    def price(self) -> float:
        """Error for every percent of the original's MACs that is saved; infinite where none is."""
        return self.error / (100 * self.macs_saved) if self.macs_saved > 0 else math.inf


@dataclass(frozen=True)
class SetSensitivity:
    """Points of the coupled set that the convolutions ``written_by`` write, by rising alpha."""

    written_by: tuple[str, ...]
    channels: int
    points: tuple[SensitivityPoint, ...]

    @property
    def middle(self) -> SensitivityPoint:
        """The point nearest to a share of one half, by which sets are compared."""
        return min(self.points, key=lambda point: abs(point.share - 0.5))

    @property
    def name(self) -> str:
        """The first of its convolutions, and the number of the others."""
        rest = len(self.written_by) - 1
        return self.written_by[0] + (f" and {rest} more" if rest else "")


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of a model's coupled sets under a rule set.

    images, measured_on:
        Number of inputs that each trial was calibrated on, and measured on.
    milliseconds, threads:
        Time of all convolutions of the original by the table of operators, and its number of threads; None
        without a measurement.
    metric:
        Name of the user's metric; None without one.
    sets:
        Sets by falling error for every MAC that they save.
    together:
        Sets that stay dense without others, each by its convolutions: they were not measured.
    """

    model: str
    rules: str
    kernels: str
    images: int
    measured_on: int
    milliseconds: float | None
    threads: int | None
    metric: str | None
    sets: tuple[SetSensitivity, ...]
    together: tuple[tuple[str, ...], ...] = ()

    def worst(self, share: float) -> tuple[SetSensitivity, ...]:
        """The sets of largest error for every MAC saved: a ``share`` of all, rounded up."""
        return self.sets[: math.ceil(share * len(self.sets) - 1e-9)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; the price of a set that saves no MACs is null."""
        document = asdict(self)
        for entry, row in zip(document["sets"], self.sets, strict=True):
            price = row.middle.price
            entry["error_per_percent"] = price if math.isfinite(price) else None
        return document

    def to_csv(self) -> str:
        """Table with one row for every set and alpha; the convolutions of a set are joined by spaces."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["written_by", "channels", *SensitivityPoint.__dataclass_fields__, "error_per_percent"]
        )
        for row in self.sets:
            for point in row.points:
                price = point.price if math.isfinite(point.price) else ""
                writer.writerow([" ".join(row.written_by), row.channels, *asdict(point).values(), price])
        return text.getvalue()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield _table(self)
        yield from (Text(line) for line in notes(self))

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=140, color_system=None, markup=False, emoji=False)
        console.print(Printable(self))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()


def notes(row: Sensitivity) -> Iterator[str]:
    """Sentences on how the figures came about."""
    yield (
        f"Each set alone, calibrated fast on {row.images} inputs and measured on {row.measured_on} others. "
        "MACs are shares of the original's; the last columns are those of the alpha nearest to one half."
    )
    if row.milliseconds is not None:
        yield (
            f"Milliseconds are of onnxruntime with {row.threads} thread{'s' if row.threads != 1 else ''}, by "
            f"a table of operators measured on this machine: {row.milliseconds:.2f} for all convolutions."
        )
    if row.together:
        names = "; ".join(", ".join(paths[:_SHOWN_PATHS]) for paths in row.together)
        yield f"Not measured, because they stay dense without others: {names}."


def alphas_of(sets: Sequence[SetSensitivity]) -> list[float]:
    """All requested alphas, ascending."""
    return sorted({point.alpha for row in sets for point in row.points})


def error_at(row: SetSensitivity, alpha: float) -> float | None:
    """Error of a set at a requested alpha; None where it has none."""
    return next((point.error for point in row.points if point.alpha == alpha), None)


def _table(row: Sensitivity) -> Table:
    table = Table(title=f"{row.model}: sensitivity", title_justify="left", header_style="bold")
    table.add_column("channels written by", overflow="fold")
    table.add_column("channels", justify="right")
    alphas = alphas_of(row.sets)
    heads = [f"error at {alpha:g}" for alpha in alphas]
    heads += ["MACs saved", "error per %"]
    heads += ["ms saved"] if row.milliseconds is not None else []
    heads += ["drop"] if row.metric is not None else []
    for head in heads:
        table.add_column(head, justify="right")
    for each in row.sets:
        errors = [error_at(each, alpha) for alpha in alphas]
        cells = ["-" if error is None else f"{error:.4f}" for error in errors]
        point = each.middle
        cells += [f"{point.macs_saved:.2%}", f"{point.price:.3g}" if point.macs_saved > 0 else "saves none"]
        if row.milliseconds is not None:
            cells.append("-" if point.milliseconds_saved is None else f"{point.milliseconds_saved:.3f}")
        if row.metric is not None:
            cells.append("-" if point.drop is None else number(point.drop))
        table.add_row(_paths(each.written_by), str(each.channels), *cells)
    return table


def _paths(paths: Sequence[str]) -> str:
    rest = len(paths) - _SHOWN_PATHS
    return ", ".join(paths[:_SHOWN_PATHS]) + (f" and {rest} more" if rest > 0 else "")
