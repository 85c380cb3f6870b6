"""Display of a report on a terminal: layers, convolutions left dense and why, boundaries, totals."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from octify.checks.printable import Printable
from octify.report.allocation import render_allocation
from octify.report.calibration import render_calibration
from octify.report.metric import render_metric
from octify.report.model import ReportData
from octify.report.rows import LayerRow, Left
from octify.report.spectrum import render_spectrum
from octify.report.tuning import render_tuning

_SHOWN_PATHS = 6


def render(report: ReportData) -> Iterator[RenderableType]:
    """Render the sections of the report, the totals last."""
    yield _layers(report)
    if report.left_dense:
        yield Text("")
        yield _left(report.left_dense)
    if report.boundaries:
        yield Text("")
        yield _boundaries(report)
    if report.calibration is not None:
        yield Text("")
        yield from render_calibration(report.calibration)
    if report.allocation is not None:
        yield Text("")
        yield from render_allocation(report.allocation)
    if report.metric is not None:
        yield Text("")
        yield from render_metric(report.metric)
    if report.spectrum is not None:
        yield Text("")
        yield from render_spectrum(report.spectrum)
    for row in report.tuning:
        yield Text("")
        yield from render_tuning(row)
    if report.timing is not None:
        yield Text("")
        yield Text(report.timing.sentence)
    yield Text("")
    yield _totals(report)


def as_text(report: ReportData) -> str:
    """Render the report as plain text of at most 140 columns."""
    console = Console(file=io.StringIO(), width=140, color_system=None, markup=False, emoji=False)
    console.print(Printable(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _layers(report: ReportData) -> Table:
    table = Table(title=f"{report.model}: layers", title_justify="left", header_style="bold")
    for name in ("layer", "kind", "kernel", "channels", "output"):
        table.add_column(name, overflow="fold" if name == "layer" else "ellipsis")
    for name in ("alpha in", "alpha out", "MMACs", "after", "parameters", "activation KiB", "after"):
        table.add_column(name, justify="right")
    for row in report.layers:
        table.add_row(*_layer(row), style=None if row.alpha_in or row.alpha_out else "dim")
    return table


_EXCHANGES = {"full": "", "spatial": ", no exchange", "high-to-low": ", one-way"}


def _layer(row: LayerRow) -> Sequence[str]:
    kernel = "x".join(map(str, row.kernel))
    stride = max(row.stride, default=1)
    return (
        row.path,
        row.kind + _EXCHANGES.get(row.exchange, f", {row.exchange}"),
        f"{kernel} / {stride}" if stride > 1 else kernel,
        f"{row.in_channels} > {row.out_channels}",
        "x".join(map(str, row.output_size)),
        f"{row.alpha_in:.3g}" if row.alpha_in else "-",
        f"{row.alpha_out:.3g}" if row.alpha_out else "-",
        f"{row.macs_before / 1e6:.2f}",
        f"{row.macs_after / 1e6:.2f}",
        f"{row.parameters_after:,}"
        if row.parameters_before == row.parameters_after
        else f"{row.parameters_before:,} > {row.parameters_after:,}",
        f"{row.activation_bytes_before / 1024:.1f}",
        f"{row.activation_bytes_after / 1024:.1f}",
    )


def _left(left: Sequence[Left]) -> Table:
    """Render the reasons with their convolutions, the most frequent first."""
    by_reason: dict[str, list[str]] = {}
    for entry in left:
        by_reason.setdefault(entry.reason, []).append(entry.path)
    table = Table(
        "convolutions", "why", title=f"left dense: {len(left)}", title_justify="left", header_style="bold"
    )
    for reason, paths in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(paths[:_SHOWN_PATHS])
        more = f" and {len(paths) - _SHOWN_PATHS} more" if len(paths) > _SHOWN_PATHS else ""
        table.add_row(f"{len(paths)}: {shown}{more}", reason)
    return table


def _boundaries(report: ReportData) -> Table:
    table = Table(
        "layer", "after", "before", "why", title="boundaries", title_justify="left", header_style="bold"
    )
    for row in report.boundaries:
        table.add_row(row.kind, row.after, row.before, row.reason)
    return table


def _totals(report: ReportData) -> Table:
    totals = report.totals
    table = Table(title="totals", title_justify="left", header_style="bold")
    table.add_column("")
    for name in ("before", "after", "ratio"):
        table.add_column(name, justify="right")
    for name, before, after, unit, scale in (
        ("MACs", totals.macs_before, totals.macs_after, "GMACs", 1e9),
        ("FLOPs (2 x MACs)", 2 * totals.macs_before, 2 * totals.macs_after, "GFLOPs", 1e9),
        ("parameters", totals.parameters_before, totals.parameters_after, "million", 1e6),
        ("activations", totals.activation_bytes_before, totals.activation_bytes_after, "MiB", 2**20),
    ):
        ratio = f"{after / before:.3f}" if before else "-"
        table.add_row(name, f"{before / scale:.3f} {unit}", f"{after / scale:.3f} {unit}", ratio)
    table.add_row("convolutions in octave form", "0", f"{totals.converted} of {totals.convolutions}", "")
    table.add_row("split / merge layers", "0 / 0", f"{totals.splits} / {totals.merges}", "")
    return table
