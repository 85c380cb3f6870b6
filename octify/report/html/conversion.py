"""HTML page of one conversion."""

from __future__ import annotations

from collections.abc import Iterator

from octify.latency.rows import LatencyRows
from octify.report.html import accuracy, costs, frequencies, latency, metric
from octify.report.html.drawing import network
from octify.report.html.layers import layer_table
from octify.report.html.numbers import sizes
from octify.report.html.page import Fragment, page
from octify.report.html.tables import Cell, Column, TableRow, table
from octify.report.html.tags import Child, tag
from octify.report.model import ReportData


def conversion_page(
    report: ReportData, *, source: str | None = None, measured: LatencyRows | None = None
) -> str:
    """Render the report as one page.

    Parameters
    ----------
    source:
        The original's name on the command line.
    measured:
        Latencies of a bench, if it was run.
    """
    parts = list(_parts(report, measured))
    title = report.model if report.alpha is None else f"{report.model} in octave form"
    return page(title, _lead(report, source), parts, report.to_dict())


def _parts(report: ReportData, measured: LatencyRows | None) -> Iterator[Fragment]:
    yield Fragment("totals", "Totals", costs.totals(report.totals))
    if report.warnings:
        yield Fragment("warnings", "Warnings", tag("ul", [tag("li", each) for each in report.warnings]))
    if report.alpha is None:  # the profile of a model as it is
        yield Fragment("layers", "Layers", layer_table(report))
        return
    yield Fragment("accuracy", "Error against the original", accuracy.outputs(report))
    yield Fragment("metric", "Metric", metric.section(report))
    yield Fragment("macs", "Where the MACs went", costs.stages(report.layers))
    yield Fragment("network", "The network", _network(report))
    yield Fragment("layers", "Layers", layer_table(report))
    yield Fragment("left-dense", "Convolutions left dense", _left_dense(report))
    yield Fragment("boundaries", "Splits and merges", _boundaries(report))
    yield Fragment("errors", "Error of every layer", accuracy.layers(report.calibration))
    yield Fragment("frequencies", "Frequencies of the feature maps", frequencies.spectrum(report.spectrum))
    yield Fragment("latency", "Latency", latency.rows(measured, report.timing))


def _lead(report: ReportData, source: str | None) -> Child:
    facts = [
        ("model", source),
        ("alpha (share of low channels)", None if report.alpha is None else f"{report.alpha:g}"),
        ("rules", report.rules),
        ("kernels", report.kernels),
        ("inputs", ", ".join(sizes(shape) for shape in report.inputs)),
    ]
    terms = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value]
    explained = (
        "Octave convolution keeps a share of the channels of every feature map, the low ones, at half the "
        "height and width, where a convolution costs a quarter. Before is the original, after is the "
        "converted model."
    )
    return [tag("dl", terms, class_="facts"), tag("p", explained)]


def _network(report: ReportData) -> Child:
    if not report.graph:
        return tag(
            "p", "This report holds no graph: an older version of octify wrote it. Convert again to have one."
        )
    explained = (
        "From the input at the top to the output at the bottom. What follows a layer and changes neither "
        "shape nor low channels (normalisation, activation) stands in its box. Sizes are those of the "
        "original, channels first."
    )
    return [tag("p", explained), network(report)]


def _left_dense(report: ReportData) -> Child:
    if not report.left_dense:
        return tag("p", "None: every convolution has low channels.")
    count = f"{len(report.left_dense)} of {report.totals.convolutions} convolutions, and why."
    rows = [
        TableRow([Cell(left.path, left.path), Cell(left.reason, left.reason)]) for left in report.left_dense
    ]
    columns = [Column("path", "convolution"), Column("reason", "why it stays dense")]
    return [tag("p", count), table("left-dense-table", "Convolutions left dense", columns, rows)]


def _boundaries(report: ReportData) -> Child:
    totals = report.totals
    count = (
        f"Splits, where a dense value gets low channels: {totals.splits}. Merges, where low channels return "
        f"to full resolution: {totals.merges}. They cost no MACs, but memory traffic."
    )
    if not report.boundaries:
        return tag("p", count)
    columns = [Column(key, title) for key, title in _BOUNDARY]
    rows = [
        TableRow([Cell(text, text) for text in (row.after, row.kind, row.before, row.reason)])
        for row in report.boundaries
    ]
    return [tag("p", count), table("boundary-table", "Splits and merges", columns, rows)]


_BOUNDARY = (("after", "after"), ("kind", "kind"), ("before", "before"), ("reason", "why"))
