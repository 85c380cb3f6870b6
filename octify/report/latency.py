"""Measured latencies on a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from octify.printable import Printable
from octify.report.latency_rows import timing_cells

if TYPE_CHECKING:
    from octify.latency.bench import BenchResult, Row


def render(result: BenchResult) -> Iterator[RenderableType]:
    """One table of all rows, and one of operator types for each row that has them."""
    yield _rows(result)
    for row in result.rows:
        if row.ops:
            yield Text("")
            yield _ops(row)
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    yield Text(f"{result.machine}; {versions}")


def as_text(result: BenchResult) -> str:
    """The tables as plain text of at most 140 columns."""
    console = Console(file=io.StringIO(), width=140, color_system=None, markup=False, emoji=False)
    console.print(Printable(result))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _rows(result: BenchResult) -> Table:
    rounds = result.rows[0].timing.rounds
    table = Table(
        title=f"latency: medians of {rounds} interleaved rounds", title_justify="left", header_style="bold"
    )
    for name in ("model", "runtime"):
        table.add_column(name)
    for name in ("batch", "threads", "ms", "quartiles", "speed-up", "GMACs", "efficiency", "peak MiB"):
        table.add_column(name, justify="right")
    for row in result.rows:
        table.add_row(
            *timing_cells(row),
            "-" if row.macs is None else f"{row.macs / 1e9:.3f}",
            "-" if row.efficiency is None else f"{row.efficiency:.2f}",
            "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.1f}",
        )
    return table


def _ops(row: Row) -> Table:
    title = f"{row.model}, batch {row.batch}: time by operator type in {row.runtime}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("operator")
    for name in ("nodes", "ms", "share"):
        table.add_column(name, justify="right")
    for op in row.ops:
        table.add_row(op.op, str(op.nodes), f"{op.milliseconds:.3f}", f"{op.share:.1%}")
    return table
