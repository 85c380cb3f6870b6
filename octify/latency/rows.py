"""Measured latencies as data, and as text on a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from octify.checks.printable import Printable
from octify.latency.ratio import Ratio

_TIMING = ("batch", "threads", "ms", "quartiles", "speed-up")


@dataclass(frozen=True)
class CallTimes:
    """Milliseconds per call of one contestant.

    median, quartile1, quartile3:
        Statistics over the rounds.
    speedup:
        Median over the rounds of (time of the first contestant / time of this one).
    """

    median: float
    quartile1: float
    quartile3: float
    speedup: float
    rounds: int


@dataclass(frozen=True)
class Timing(CallTimes):
    """CallTimes as they are measured.

    ratio:
        Median time of the first contestant over this one's, with its 95 % interval.
    """

    ratio: Ratio

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        return (self.quartile3 - self.quartile1) / self.median


@dataclass(frozen=True)
class LatencyRow:
    """Latency of one model in one runtime at one batch size, as it is read from ``latency.json``.

    timing:
        Milliseconds per call; ``speedup`` is against the first model in the same runtime.
    macs:
        Multiply-accumulates per call; None for a file, whose MACs are not counted.
    peak_bytes:
        Peak memory (``octify.latency.memory``): with the weights for an ONNX file, without for a module.
    """

    model: str
    runtime: str
    batch: int
    threads: int
    timing: CallTimes
    macs: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class BenchRow(LatencyRow):
    """Latency of one model as it is measured.

    efficiency:
        Speed-up over the ratio of MACs: 1 when time fell in proportion to the MACs.
    ops:
        Time by operator type, where it was asked for.
    """

    timing: Timing
    efficiency: float | None = None
    ops: tuple[OpTime, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, times in milliseconds."""
        ratio = self.timing.ratio
        judged = asdict(ratio) | {"significant": ratio.significant, "verdict": ratio.verdict}
        timing = asdict(self.timing) | {"spread": self.timing.spread, "ratio": judged}
        return asdict(self) | {"timing": timing}


@dataclass(frozen=True)
class BenchResult:
    """All rows of a bench, and the machine they were measured on. ``print(result)`` shows a table.

    ``facts`` are those of ``octify.latency.machine``.
    """

    rows: tuple[BenchRow, ...]
    machine: str
    versions: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "machine": self.machine,
            "versions": dict(self.versions),
            "facts": dict(self.facts),
            "rows": [row.to_dict() for row in self.rows],
        }

    def __str__(self) -> str:
        return as_text(self)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from render(self)


@dataclass(frozen=True)
class OpTime:
    """Milliseconds per call of all operators of one type, and their number after optimisation."""

    op: str
    milliseconds: float
    share: float
    nodes: int


def render(result: BenchResult) -> Iterator[RenderableType]:
    """Render one table of all rows, and one of operator types for each row with a profile."""
    yield _rows(result)
    for row in result.rows:
        if row.ops:
            yield Text("")
            yield _ops(row)
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    yield Text(f"{result.machine}; {versions}")


def as_text(result: BenchResult) -> str:
    """Render the tables as plain text of at most 180 columns."""
    console = Console(file=io.StringIO(), width=180, color_system=None, markup=False, emoji=False)
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
    for name in (*_TIMING, "95 % interval", "verdict", "GMACs", "efficiency", "peak MiB"):
        table.add_column(name, justify="left" if name == "verdict" else "right")
    for row in result.rows:
        table.add_row(
            *timing_cells(row),
            *_verdict(row),
            "-" if row.macs is None else f"{row.macs / 1e9:.3f}",
            "-" if row.efficiency is None else f"{row.efficiency:.2f}",
            "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.1f}",
        )
    return table


def _verdict(row: BenchRow) -> tuple[str, str]:
    """The interval of the ratio to the first model, and what it says; nothing of the first itself."""
    ratio = row.timing.ratio
    if ratio.low == ratio.high == 1:
        return "-", "-"
    return f"{ratio.low:.2f} - {ratio.high:.2f}", ratio.verdict


def _ops(row: BenchRow) -> Table:
    title = f"{row.model}, batch {row.batch}: time by operator type in {row.runtime}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("operator")
    for name in ("nodes", "ms", "share"):
        table.add_column(name, justify="right")
    for op in row.ops:
        table.add_row(op.op, str(op.nodes), f"{op.milliseconds:.3f}", f"{op.share:.1%}")
    return table


@dataclass(frozen=True)
class LatencyRows:
    """All rows of a bench, and the machine they were measured on."""

    rows: tuple[LatencyRow, ...]
    machine: str
    versions: dict[str, str] = field(default_factory=dict)


def render_latency(latency: LatencyRows) -> Iterator[RenderableType]:
    """Render medians and speed-ups."""
    title = f"latency: {latency.machine}"
    table = Table("model", "runtime", title=title, title_justify="left", header_style="bold")
    for name in _TIMING:
        table.add_column(name, justify="right")
    for row in latency.rows:
        table.add_row(*timing_cells(row))
    yield table


def timing_cells(row: LatencyRow) -> tuple[str, ...]:
    """Format model, runtime, batch, threads, median, quartiles and speed-up."""
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
