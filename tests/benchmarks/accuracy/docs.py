"""Writes ``docs/accuracy.md`` from the JSON document of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.accuracy.measure import Row
from tests.benchmarks.accuracy.summary import (
    COLUMNS,
    DEMAND_COLUMNS,
    MEAN_COLUMNS,
    cells,
    demand_cells,
    demands,
    mean_cells,
    means,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "accuracy.md"


def write(source: Path, page: Path = PAGE) -> None:
    """Read the document at ``source`` and write ``page``."""
    document = json.loads(source.read_text(encoding="utf-8"))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(_lines(document, source.name)) + "\n", encoding="utf-8")


def _lines(document: dict[str, Any], name: str) -> Iterator[str]:
    rows = [Row(**row) for row in document["rows"]]
    images = document["images"]
    yield "# Accuracy after calibration"
    yield ""
    yield (
        "Every figure here is a row of this command, which may be run in pieces, a method and a task a time: "
        "rows that are there are not made again. This page is generated and not edited by hand."
    )
    yield ""
    yield "```"
    yield document["command"]
    yield f"python -m tests.benchmarks.accuracy --docs {name}"
    yield "```"
    yield ""
    yield "Versions: " + ", ".join(f"{n} {number}" for n, number in document["versions"].items()) + "."
    yield ""
    yield (
        f"Networks and tasks: tests/benchmarks/accuracy (nets.py, data.py); {_tested(rows)} test images that "
        "nothing was chosen on. Policy, the same for every method: every convolution that can be octave, "
        "but the stem (rules.toml). Drop: points of accuracy below the original. +-: one standard error, of "
        "a drop from the differences image by image. Relative error: of the outputs, over the spread of the "
        "original's. MACs: share of the original's. s: CPU seconds on one thread, of whichever machine a row "
        "was made on."
    )
    yield ""
    yield "## What must be shown"
    yield ""
    yield from _table(DEMAND_COLUMNS, [demand_cells(demand) for demand in demands(rows, images)])
    yield f"## Means over networks and tasks, {images} images"
    yield ""
    yield from _table(MEAN_COLUMNS, [mean_cells(mean) for mean in means(rows, images)])
    yield "## Rows"
    yield ""
    yield "Originals: " + ", ".join(_originals(rows)) + "."
    yield ""
    yield from _table(COLUMNS, [cells(row) for row in rows])


def _tested(rows: Sequence[Row]) -> str:
    return " or ".join(sorted({f"{row.tested:,}".replace(",", " ") for row in rows}))


def _originals(rows: Sequence[Row]) -> list[str]:
    return sorted({f"{row.net} on {row.task} {100 * row.original:.1f} %" for row in rows})


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""
