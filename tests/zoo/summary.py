"""Figures over many rows: counts of statuses, means, and what the conversions lose most to."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.zoo.catalogue import MAINLY

Rows = Sequence[dict[str, Any]]

GOOD = ("ok", "ok, odd")
SKIPPED = ("not a CNN",)
LIMITED = ("timeout", "memory")


def is_fault(row: dict[str, Any]) -> bool:
    """Whether something is wrong with the conversion, as opposed to left out for a stated reason."""
    return row["status"] not in (
        *GOOD,
        *SKIPPED,
        *LIMITED,
        "nothing converted",
        "untraceable",
        "cannot be run",
    )


def cnns(rows: Rows) -> list[dict[str, Any]]:
    """What counts: everything that is mainly convolutions, converted or not."""
    return [row for row in rows if not row["macs"] or row["conv_macs"] / row["macs"] > MAINLY]


def mean(values: Iterable[float]) -> float:
    """The mean; NaN of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else float("nan")


def totals(rows: Rows) -> dict[str, Any]:
    """Counts and means. A CNN that could not be planned counts with share 0 and ratio 1."""
    counted = cnns(rows)
    exact = [row["exact"] for row in rows if row["exact"] is not None and row["even"]]
    return {
        "models": len(rows),
        "cnns": len(counted),
        "statuses": dict(Counter(row["status"] for row in rows).most_common()),
        "mean_share_both": mean(row["both"] for row in counted),
        "mean_share_one": mean(row["one"] for row in counted),
        "mean_conv_ratio": mean(row["conv_ratio"] for row in counted),
        "mean_total_ratio": mean(row["total_ratio"] for row in counted),
        "largest_exact_error_at_even_sizes": max(exact, default=None),
        "exported": sum(row["onnx"] is not None for row in rows),
        "faults": [row["name"] for row in rows if is_fault(row)],
    }


def reasons(rows: Rows) -> list[dict[str, Any]]:
    """Reasons for what stayed dense, over all models, by the mean share of conv MACs lost."""
    share: dict[str, float] = defaultdict(float)
    models: dict[str, list[tuple[float, str]]] = defaultdict(list)
    counted = cnns(rows)
    for row in counted:
        for entry in row["reasons"]:
            reason = re.sub(r"\d+", "#", entry["reason"])
            share[reason] += entry["share"]
            models[reason].append((entry["share"], row["name"]))
        if not row["traced"]:
            share[f"status: {row['status']}"] += 1.0
            models[f"status: {row['status']}"].append((1.0, row["name"]))
    return [
        {
            "reason": reason,
            "mean_share": total / len(counted),
            "models": len(models[reason]),
            "worst": [f"{name} {part:.0%}" for part, name in sorted(models[reason], reverse=True)[:4]],
        }
        for reason, total in sorted(share.items(), key=lambda item: -item[1])
    ]


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One row of the table, as text."""
    known = bool(row["traced"])

    def share(value: float) -> str:
        return f"{value:.0%}" if known else "-"

    def error(value: float | None) -> str:
        return "-" if value is None else "0" if value == 0 else f"{value:.0e}"

    return (
        row["name"],
        row["status"],
        f"{row['macs'] / 1e9:.2f}" if row["macs"] else "-",
        share(row["both"]),
        share(row["one"]),
        share(row["none"]),
        f"{row['conv_ratio']:.3f}" if known else "-",
        f"{row['total_ratio']:.3f}" if known else "-",
        f"{row['splits']} / {row['merges']}" if known else "-",
        str(row["opaque"]) if known else "-",
        error(row["exact"]),
        error(row["onnx"]),
        f"{sum(row['seconds'].values()):.0f}",
    )


COLUMNS = (
    "model",
    "status",
    "GMACs",
    "both",
    "one",
    "none",
    "conv ratio",
    "total ratio",
    "splits / merges",
    "opaque",
    "exact",
    "onnx",
    "s",
)


def show(rows: Rows, console: Console) -> None:
    """The table of all rows, what is lost and why, the worst, and the totals."""
    table = Table(*COLUMNS, title="models", title_justify="left", header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*cells(row), style="red" if is_fault(row) else None)
    console.print(table)
    lost = Table("mean share", "models", "reason", "worst", title="conv MACs left", title_justify="left")
    for entry in reasons(rows)[:15]:
        lost.add_row(
            f"{entry['mean_share']:.2%}", str(entry["models"]), entry["reason"], ", ".join(entry["worst"])
        )
    console.print(lost)
    trouble = Table("model", "status", "detail", title="not converted", title_justify="left")
    for row in rows:
        if row["status"] not in (*GOOD, *SKIPPED):
            trouble.add_row(row["name"], row["status"], row["detail"])
    console.print(trouble)
    found = totals(rows)
    console.print(
        f"{found['models']} models, {found['cnns']} of them CNNs. Mean over these: "
        f"{found['mean_share_both']:.1%} of conv MACs octave on both sides, "
        f"{found['mean_share_one']:.1%} on one; conv MACs ratio {found['mean_conv_ratio']:.3f}, "
        f"total {found['mean_total_ratio']:.3f}."
    )
    console.print("statuses: " + ", ".join(f"{n} {status}" for status, n in found["statuses"].items()))
