"""The table of docs/speed.md, from the figures that ``python -m tests.benchmarks.speed --deploy`` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
DEPLOYED = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")


def write_page(document: Mapping[str, Any], page: Path) -> None:
    """Replace what stands between the two marks in ``page``."""
    page.write_text(filled(page.read_text(encoding="utf-8"), document), encoding="utf-8")


def filled(text: str, document: Mapping[str, Any]) -> str:
    """``text`` with the figures between its marks."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(document)}\n{END}{tail}"


def table(document: Mapping[str, Any]) -> str:
    """One row for each model and rules; a cell is the ratio of medians, its interval, efficiency, medians."""
    facts, figures = document["facts"], document["figures"]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    sets = ", ".join(facts["instruction_sets"])
    load = _span([figure["load"] for figure in figures])
    rounds = [figure["rounds"] for figure in figures]
    lines = [
        f"{facts['processor']} ({sets}), {facts['threads']} thread(s), {document['date']}; {versions}; "
        f"medians of {min(rounds)} to {max(rounds)} interleaved rounds, load {load}.",
        "",
        f"| model | rules | MACs ratio | {' | '.join(DEPLOYED)} |",
        "|---|---|---|" + "---|" * len(DEPLOYED),
    ]
    keys = dict.fromkeys((f["model"], f["size"], f["batch"], f["rules"], f["macs_ratio"]) for f in figures)
    for key in keys:
        model, size, batch, rules, ratio = key
        own = {
            f["runtime"]: f
            for f in figures
            if (f["model"], f["size"], f["batch"], f["rules"], f["macs_ratio"]) == key
        }
        cells = " | ".join(_cell(own.get(runtime)) for runtime in DEPLOYED)
        lines.append(f"| {model} | {size}, batch {batch}, `{rules}` | {ratio:.3f} | {cells} |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    low, high = figure["interval"]
    dense, octave = figure["dense_ms"], figure["octave_ms"]
    ratio = dense / octave
    efficiency = f"{ratio * figure['macs_ratio']:.2f}"
    return f"{ratio:.2f} ({low:.2f}-{high:.2f}), {efficiency}; {dense:.1f} to {octave:.1f} ms"


def _span(loads: Sequence[float]) -> str:
    return f"{min(loads):.1f} to {max(loads):.1f}"
