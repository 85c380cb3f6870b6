"""Section on measured latency."""

from __future__ import annotations

from octify.latency.rows import LatencyRows
from octify.latency.verdict import PlanTiming
from octify.report.html.tables import Cell, Column, TableRow, table
from octify.report.html.tags import Child, tag

_ABSENT = (
    "Not measured. octify bench DIR --json > DIR/bench.json times the converted model against the original, "
    "and octify report DIR --html FILE then shows it here."
)
_COLUMNS = (
    Column("model", "model"),
    Column("runtime", "runtime"),
    Column("batch", "batch", True),
    Column("threads", "threads", True),
    Column("median", "ms per call", True),
    Column("quartiles", "quartiles, ms", True),
    Column("speedup", "speed-up", True),
)


def rows(measured: LatencyRows | None, timing: PlanTiming | None = None) -> Child:
    """Render the verdict on a plan by measured time, medians, quartiles and speed-ups."""
    verdict: list[Child] = [] if timing is None else [tag("p", timing.sentence)]
    if measured is None or not measured.rows:
        return verdict or tag("p", _ABSENT)
    versions = ", ".join(f"{name} {number}" for name, number in measured.versions.items())
    rounds = measured.rows[0].timing.rounds
    caption = (
        f"Medians of {rounds} interleaved rounds on {measured.machine} ({versions}). "
        "Speed-ups are to the first model."
    )
    body = [
        TableRow(
            [
                Cell(row.model, row.model),
                Cell(row.runtime, row.runtime),
                Cell(str(row.batch), row.batch),
                Cell(str(row.threads), row.threads),
                Cell(f"{row.timing.median:.2f}", row.timing.median),
                Cell(f"{row.timing.quartile1:.2f} to {row.timing.quartile3:.2f}", row.timing.quartile1),
                Cell(f"{row.timing.speedup:.2f}", row.timing.speedup),
            ]
        )
        for row in measured.rows
    ]
    return [*verdict, tag("p", caption), table("latency-table", "Latency", _COLUMNS, body)]
