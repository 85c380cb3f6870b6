"""docs/real-networks.md, from the rows."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.real.networks import NETWORKS
from tests.benchmarks.real.rows import Row

_PERCENT = ("same top-1", "of the sure", "kept", "that are the original's")


def page(rows: Sequence[Row]) -> str:
    """Markdown: one table for each network."""
    parts = [_HEAD]
    for name, network in NETWORKS.items():
        some = [r for r in rows if r.net == name and r.split == "test"]
        if not some:
            continue
        aside = " Nothing of octify was chosen by it." if network.aside else ""
        parts.append(
            f"## {network.what}\n\nFrom the package `{network.package}`, at {network.size}x{network.size};"
            f" {some[0].images} crops to calibrate on, {some[0].tested} to test with.{aside}\n"
        )
        names = list(network.measures)
        counts = {n: int(v["count"]) for r in some for n, v in r.values.items()}
        heads = ["alpha", "method", "MACs", *(_head(n, counts) for n in names), "CPU s", "peak GiB"]
        parts.append(_table(heads, [cells(r, names)[1:] for r in sorted(some, key=lambda r: r.alpha)]))
    return "\n".join(parts)


def cells(row: Row, names: Sequence[str] | None = None) -> list[str]:
    """A row as text: network, alpha, method, MACs, values with standard errors, CPU seconds, memory."""
    start = [row.net, f"{row.alpha:g}", row.method]
    names = list(row.values) if names is None else list(names)
    if row.failure:
        return [*start, "", row.failure, *[""] * (len(names) + 1)]
    values = [_value(name, row.values.get(name)) for name in names]
    return [*start, f"{row.macs_ratio:.3f}", *values, f"{row.seconds:.0f}", f"{row.peak_gib:.1f}"]


def _value(name: str, found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    if any(part in name for part in _PERCENT):
        return f"{100 * found['value']:.1f} ± {100 * found['error']:.1f}"
    if name == "PSNR":
        return f"{found['value']:.1f} ± {found['error']:.1f}"
    return f"{found['value']:.3f} ± {found['error']:.3f}"


def _head(name: str, counts: dict[str, int]) -> str:
    unit = ", %" if any(part in name for part in _PERCENT) else ", dB" if name == "PSNR" else ""
    counted = name in ("of the sure", "boxes kept", "lines kept")
    return f"{name}{unit}" + (f" (of {counts.get(name, 0)})" if counted else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(r) + " |" for r in rows)]) + "\n"


_HEAD = """# Trained networks out of packages, at their real sizes

Written by `python -m tests.benchmarks.real --page` from docs/real-networks.json. Networks with their
authors' weights are converted, and their answers on photographs compared with the original's. Calibration
sees unlabelled crops; the crops tested are of other photographs. Standard errors are by photographs, since
crops of one are alike. CPU seconds are of one thread. "Sure" are answers whose top probability is at least
.5 in the original; boxes count as kept if the converted network finds one of the same class that overlaps
by half, at the same threshold. "Target": `--target-macs` in place of `--alpha`, an alpha for every coupled
set at the same MACs.
"""
