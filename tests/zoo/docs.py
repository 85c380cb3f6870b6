"""Writes ``docs/zoo.md`` from the JSON document of a sweep."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.zoo.summary import COLUMNS, GOOD, SKIPPED, Rows, cells, cnns, mean, reasons, totals

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "zoo.md"


def write(source: Path, page: Path = PAGE) -> None:
    """Read the document at ``source`` and write ``page``."""
    document = json.loads(source.read_text(encoding="utf-8"))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(_lines(document)) + "\n", encoding="utf-8")


def _lines(document: dict[str, Any]) -> Iterator[str]:
    rows: Rows = document["rows"]
    found = totals(rows)
    options = document["options"]
    yield "# The zoo"
    yield ""
    yield (
        "Every figure here comes from one run; this page is generated and not edited by hand. "
        f"`alpha` {options['alpha']:g}, rules `{options['rules']}`, MACs with the `paper` kernels at each "
        "model's own input size."
    )
    yield ""
    yield "```"
    yield document["command"]
    yield f"python -m tests.zoo --docs {Path(document['command'].partition('--json ')[2] or 'FILE').name}"
    yield "```"
    yield ""
    yield "Versions: " + ", ".join(f"{name} {number}" for name, number in document["versions"].items()) + "."
    yield ""
    yield from _totals(found, options)
    yield from _families(rows)
    yield from _reasons(rows)
    yield from _troubles(rows)
    yield "## Models"
    yield ""
    yield (
        "Shares of convolution MACs that are octave on both sides, on one, on none; MACs after / before, of "
        "convolutions and in total. exact: largest difference between the conversion with exact kernels and "
        "the projected reference, relative to the output's scale, in float64. s: seconds of CPU time."
    )
    yield ""
    shown = [row for row in rows if row["status"] not in SKIPPED]
    yield from _table(COLUMNS, [cells(row) for row in shown])
    skipped = [row for row in rows if row["status"] in SKIPPED]
    if skipped:
        yield "## Not CNNs"
        yield ""
        yield f"{len(skipped)} models have less than half of their MACs in convolutions and are skipped:"
        yield ""
        yield (
            ", ".join(f"{row['name']} ({row['conv_macs'] / (row['macs'] or 1):.0%})" for row in skipped) + "."
        )


def _totals(found: dict[str, Any], options: dict[str, Any]) -> Iterator[str]:
    yield "## Totals"
    yield ""
    statuses = ", ".join(f"{count} {status}" for status, count in found["statuses"].items())
    yield f"- {found['models']} models, {found['cnns']} of them CNNs: {statuses}."
    yield f"- Mean share of convolution MACs octave on both sides: {found['mean_share_both']:.1%}."
    yield f"- Mean share octave on one side: {found['mean_share_one']:.1%}."
    yield f"- Mean ratio of convolution MACs after to before: {found['mean_conv_ratio']:.3f}."
    yield f"- Mean ratio of all MACs: {found['mean_total_ratio']:.3f}."
    if not options["static"]:
        worst = found["largest_exact_error_at_even_sizes"]
        yield f"- Largest error of exact kernels at even sizes: {worst if worst is None else f'{worst:.1e}'}."
    if options["onnx"]:
        yield f"- Exported and equal in onnxruntime within noise: {found['exported']} of {options['onnx']}."
    yield ""
    yield "A CNN that could not be planned counts with share 0 and ratio 1."
    yield ""


def _families(rows: Rows) -> Iterator[str]:
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in cnns(rows):
        families[row["family"]].append(row)
    yield "## Families"
    yield ""
    yield from _table(
        ("family", "models", "ok", "both", "one", "conv ratio", "total ratio"),
        [
            (
                family,
                str(len(members)),
                str(sum(row["status"] in GOOD for row in members)),
                f"{mean(row['both'] for row in members):.0%}",
                f"{mean(row['one'] for row in members):.0%}",
                f"{mean(row['conv_ratio'] for row in members):.3f}",
                f"{mean(row['total_ratio'] for row in members):.3f}",
            )
            for family, members in sorted(families.items())
        ],
    )


def _reasons(rows: Rows) -> Iterator[str]:
    yield "## What is left, and why"
    yield ""
    yield from _table(
        ("mean share of conv MACs", "models", "reason", "most in"),
        [
            (f"{r['mean_share']:.2%}", str(r["models"]), r["reason"], ", ".join(r["worst"][:2]))
            for r in reasons(rows)[:40]
        ],
    )


def _troubles(rows: Rows) -> Iterator[str]:
    found = [row for row in rows if row["status"] not in ("ok", *SKIPPED)]
    if found:
        yield "## Exceptions"
        yield ""
        yield from _table(
            ("model", "status", "detail"), [(r["name"], r["status"], r["detail"]) for r in found]
        )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""
