"""Latencies that ``octify bench --json`` printed, as a report shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

if TYPE_CHECKING:
    from octify.latency.bench import Row


@dataclass(frozen=True)
class StoredTiming:
    """Milliseconds per call, median and quartiles; ``speedup`` is against the first model."""

    median: float
    quartile1: float
    quartile3: float
    speedup: float
    rounds: int


@dataclass(frozen=True)
class StoredLatency:
    """One model in one runtime at one batch size."""

    model: str
    runtime: str
    batch: int
    threads: int
    timing: StoredTiming
    macs: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class LatencyRows:
    """All rows of a bench, and the machine they were measured on."""

    rows: tuple[StoredLatency, ...]
    machine: str
    versions: dict[str, str] = field(default_factory=dict)


def render_latency(latency: LatencyRows) -> Iterator[RenderableType]:
    """Medians and speed-ups."""
    title = f"latency: {latency.machine}"
    table = Table("model", "runtime", title=title, title_justify="left", header_style="bold")
    for name in ("batch", "threads", "ms", "quartiles", "speed-up"):
        table.add_column(name, justify="right")
    for row in latency.rows:
        table.add_row(*timing_cells(row))
    yield table


def timing_cells(row: StoredLatency | Row) -> tuple[str, ...]:
    """Model, runtime, batch, threads, median, quartiles and speed-up, as text."""
    timing = row.timing
    return (
        row.model,
        row.runtime,
        str(row.batch),
        str(row.threads),
        f"{timing.median:.2f}",
        f"{timing.quartile1:.2f} - {timing.quartile3:.2f}",
        f"{timing.speedup:.2f}",
    )
