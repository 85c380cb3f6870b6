"""Section on the spectra of the low and high channels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from octify.report.html.charts import Axes, Curve, curves
from octify.report.html.numbers import percent, sizes
from octify.report.html.tables import Cell, Column, TableRow, table
from octify.report.html.tags import Child, tag
from octify.report.spectrum import METHOD, BandRow, MapRow, SpectrumRow

_ABSENT = (
    "Not measured: this conversion was made without calibration data, and the spectra are those of the "
    "original's feature maps on such data. octify convert MODEL --calib DATA measures them."
)
_COLUMNS = (
    Column("read_by", "read by"),
    Column("size", "map"),
    Column("low_channels", "low channels", True),
    Column("high_channels", "high channels", True),
    Column("low_above", "low: power above 0.25", True),
    Column("high_above", "high: power above 0.25", True),
)


def spectrum(row: SpectrumRow | None) -> Child:
    """Draw both mean spectra, explain them, and tabulate the share of fine detail for each map."""
    if row is None:
        return tag("p", _ABSENT)
    data = "synthetic images" if row.synthetic else "calibration inputs"
    summary = (
        f"{percent(row.low.above_quarter)} of the power of the channels chosen low lies above 0.25 cycles "
        "per pixel, which half the resolution cannot hold; of the channels left high, "
        f"{percent(row.high.above_quarter)}. Measured on {row.inputs} {data}, mean over {row.low.channels} "
        f"low and {row.high.channels} high channels of {len(row.maps)} feature maps."
    )
    axes = Axes(
        "Mean power spectrum of the low and of the high channels",
        "frequency, cycles per pixel",
        "power (white noise = 1)",
        logarithmic=True,
        mark=(0.25, "half resolution ends"),
    )
    chart = curves(
        axes,
        [
            Curve("channels chosen low", _points(row.edges, row.low), 1),
            Curve("channels left high", _points(row.edges, row.high), 0, 1),
        ],
    )
    rows = table(
        "spectrum-table", "Power above 0.25 cycles per pixel, map by map", _COLUMNS, [*map(_row, row.maps)]
    )
    return [
        tag("p", summary),
        chart,
        tag("h3", "How it is computed"),
        tag("p", METHOD),
        tag("h3", "Map by map"),
        rows,
    ]


def _points(edges: Sequence[float], band: BandRow) -> list[tuple[float, float]]:
    """Points of a curve: the power at the centre of every bin that has a value."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    return [(x, power) for x, power in zip(middles, band.power, strict=True) if power is not None]


def _row(row: MapRow) -> TableRow:
    low, high = row.low, row.high
    return TableRow(
        [
            Cell(", ".join(row.read_by), ", ".join(row.read_by)),
            Cell(sizes(row.size), sizes(row.size)),
            Cell(str(low.channels), low.channels),
            Cell(str(high.channels), high.channels),
            Cell(percent(low.above_quarter), low.above_quarter),
            Cell(percent(high.above_quarter), high.above_quarter),
        ]
    )
