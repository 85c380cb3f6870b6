"""The report's section on the spectra of the low and the high channels' feature maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

# Explanation of the figures for the reader; octify/calibrate/spectrum.py computes them.
METHOD = (
    "For every feature map that a converted convolution reads, in the original network, on at most 16 "
    "calibration inputs: of each channel of each input the mean is subtracted, the discrete Fourier "
    "transform taken, and the squared magnitude averaged over all frequencies whose radius falls into the "
    "same bin of 1/16 cycle per pixel. That is divided by the mean over all frequencies but 0, so that "
    "white noise is 1 everywhere and strong channels count no more than weak ones. The results are "
    "averaged over the inputs, and then over the channels that the conversion made low, and over those it "
    "left high; each channel of each map weighs the same. Where a channel is constant it is left out. A "
    "map that several convolutions read counts once."
)


@dataclass(frozen=True)
class BandRow:
    """Mean spectrum of a group of channels.

    channels:
        Number of channels; constant ones are not counted.
    power:
        Mean power per frequency in each bin, in units of white noise; None where no map has a frequency.
    above_quarter:
        Share of the power at more than 0.25 cycles per pixel, which half the resolution cannot hold.
    """

    channels: int
    power: tuple[float | None, ...]
    above_quarter: float | None


@dataclass(frozen=True)
class MapRow:
    """Spectra of one feature map of the original, the input of the layers ``read_by``."""

    read_by: tuple[str, ...]
    size: tuple[int, ...]
    low: BandRow
    high: BandRow


@dataclass(frozen=True)
class SpectrumRow:
    """Mean radial power spectra of the channels chosen low and high, measured on ``inputs`` inputs.

    edges:
        Edges of the frequency bins, in cycles per pixel; one more than there are bins.
    low, high:
        Mean spectra over all channels of all ``maps``.
    """

    inputs: int
    synthetic: bool
    edges: tuple[float, ...]
    low: BandRow
    high: BandRow
    maps: tuple[MapRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self) | {"method": METHOD}


def render_spectrum(row: SpectrumRow) -> Iterator[RenderableType]:
    """Render the share of fine detail in both groups."""
    table = Table(
        title=f"frequencies of the original's feature maps, on {row.inputs} calibration inputs",
        title_justify="left",
        header_style="bold",
    )
    table.add_column("channels")
    for name in ("number", "power above 0.25 cycles per pixel"):
        table.add_column(name, justify="right")
    for name, band in (("chosen low", row.low), ("left high", row.high)):
        share = "-" if band.above_quarter is None else f"{band.above_quarter:.1%}"
        table.add_row(name, str(band.channels), share)
    yield table
