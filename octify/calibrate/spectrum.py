"""Radial power spectra of the original's feature maps, and what they say of low and high channels.

The frequency analysis of Chen et al. 2019 (the energy of the Fourier transform of both groups), for any
model and as curves: ``octify.report.spectrum.METHOD`` says in words what is computed here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from octify.calibrate.channels.convolution import channels_second
from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.observe import observe
from octify.layout.channels import ConvNode, Mask, Resolved, mask_of
from octify.ops.base import operand
from octify.passes.resolve import Planned
from octify.report.spectrum import BandRow, MapRow, SpectrumRow
from octify.trace import Traced

BINS = 12  # of 1/16 cycle per pixel; the corner of the plane, (1/2, 1/2), lies in the last
_WIDTH = 1 / 16
_QUARTER = 0.25  # cycles per pixel: the most that half the resolution can hold
_MOST_INPUTS = 16  # spectra are means over channels and positions as well, and change little with more
_CONSTANT = 1e-12  # of the power of the channel's values: what is less is rounding


@dataclass(frozen=True)
class ChannelSpectra:
    """Spectra of the channels of one value, (C, BINS), and what they were summed over.

    power:
        Mean over inputs and over the frequencies in a bin; NaN where there is no frequency.
    share:
        Share of each channel's power above a quarter cycle per pixel, (C,); NaN for constant channels.
    """

    size: tuple[int, ...]
    power: Tensor
    share: Tensor


def spectra(traced: Traced, resolved: Resolved, chunks: Chunks) -> Mapping[str, ChannelSpectra]:
    """Spectra of the values that convolutions read, by the name of the reading node.

    Takes at most 16 inputs of ``chunks``.
    """
    sums: dict[str, list[tuple[tuple[int, ...], Tensor, Tensor]]] = {}
    watch: dict[str, Callable[[Tensor, Tensor], None]] = {}
    for conv in _first_readers(traced, resolved):
        watch[conv.node] = _adder(traced, conv, sums.setdefault(conv.node, []))
    observe(traced, _few(chunks), watch)
    return {node: _mean(parts) for node, parts in sums.items() if parts}


def by_frequency(
    traced: Traced, planned: Planned, measured: Mapping[str, ChannelSpectra], inputs: int, *, synthetic: bool
) -> SpectrumRow | None:
    """Spectra of the low and high channels under ``planned``; None where nothing is converted."""
    resolved, plan = planned.on(traced), planned.plan
    converted = {conv.path for conv in plan.convs if conv.low_in}
    readers: dict[str, list[ConvNode]] = {}
    for conv in resolved.layout.convs:
        if conv.path in converted:
            readers.setdefault(_source(traced, conv), []).append(conv)
    by_source = {
        _source(traced, conv): measured[conv.node] for conv in resolved.layout.convs if conv.node in measured
    }
    maps, bands = [], []
    for source, convs in readers.items():
        mask = mask_of(convs[0].ids_in, resolved.low)
        if source not in by_source or mask is None:
            continue
        spectrum = by_source[source]
        bands.append((spectrum, mask))
        paths = tuple(dict.fromkeys(conv.path for conv in convs))
        maps.append(MapRow(paths, spectrum.size, _band([(spectrum, mask)]), _band([(spectrum, ~mask)])))
    if not maps:
        return None
    low, high = _band(bands), _band([(spectrum, ~mask) for spectrum, mask in bands])
    edges = tuple(i * _WIDTH for i in range(BINS + 1))
    return SpectrumRow(min(inputs, _MOST_INPUTS), synthetic, edges, low, high, tuple(maps))


def radial_power(x: Tensor) -> tuple[Tensor, Tensor]:
    """Power spectra of maps ``x`` (N, C, *size), each without its mean.

    Returns the mean power per frequency in every bin of radius, in units of its mean over all frequencies
    (so white noise is 1), (N, C, BINS), NaN where the size has no frequency; and the share of the power
    above 0.25 cycles per pixel, (N, C). Both NaN for constant maps.
    """
    size, axes = x.shape[2:], tuple(range(2, x.ndim))
    x = x.float()
    transform = torch.fft.rfftn(x - x.mean(axes, keepdim=True), dim=axes)
    power = torch.view_as_real(transform).square().sum(-1).flatten(2)
    readout, count = (each.to(power) for each in _readout(size))
    sums = power @ readout
    total, frequencies = sums[..., -1], count[-1]
    # By Parseval, the power of the values themselves, times that of the rounding in them.
    least = _CONSTANT * x.square().sum(axes) * math.prod(size)
    total = torch.where(total > least, total, torch.nan)
    relative = sums[..., :BINS] / count[:BINS] / (total / frequencies)[..., None]
    return relative, sums[..., BINS] / total


@functools.lru_cache(maxsize=64)
def _readout(size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Matrix that sums a real transform's power over all frequencies but 0, (F, BINS + 2), and their number.

    Columns: one for each bin of radius, those above a quarter cycle per pixel, all. ``rfftn`` leaves out
    the conjugates along the last axis; what it stands for twice weighs twice.
    """
    *others, last = size
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in others]
    half = torch.fft.rfftfreq(last, dtype=torch.float64)
    grids = torch.meshgrid(*axes, half, indexing="ij")
    radius = torch.stack(grids).square().sum(0).sqrt().flatten()
    twice = (grids[-1] > 0) & (grids[-1] * 2 * last != last)
    weight = 1 + twice.flatten().double()
    weight[0] = 0  # frequency 0, the mean
    bins = (radius / _WIDTH).floor().long().clamp_max(BINS - 1)
    columns = torch.zeros(len(radius), BINS + 2, dtype=torch.float64)
    columns[torch.arange(len(radius)), bins] = weight
    columns[:, BINS] = weight * (radius > _QUARTER)
    columns[:, -1] = weight
    return columns, columns.sum(0)


def _adder(
    traced: Traced, conv: ConvNode, into: list[tuple[tuple[int, ...], Tensor, Tensor]]
) -> Callable[[Tensor, Tensor], None]:
    def add(x: Tensor, y: Tensor) -> None:
        (x,) = channels_second(traced, conv, x)
        if x.ndim > 2 and any(n > 1 for n in x.shape[2:]):
            power, share = radial_power(x)
            into.append((tuple(x.shape[2:]), power.double().cpu(), share.double().cpu()))

    return add


def _mean(parts: Sequence[tuple[tuple[int, ...], Tensor, Tensor]]) -> ChannelSpectra:
    """Over the inputs; an input in which a channel is constant says nothing about it."""
    power = torch.cat([part[1] for part in parts])
    share = torch.cat([part[2] for part in parts])
    return ChannelSpectra(parts[0][0], power.nanmean(0), share.nanmean(0))


def _band(groups: Sequence[tuple[ChannelSpectra, Mask]]) -> BandRow:
    """The mean over the channels that the masks name, each the same weight."""
    power = torch.cat([spectrum.power[torch.from_numpy(np.asarray(mask))] for spectrum, mask in groups])
    share = torch.cat([spectrum.share[torch.from_numpy(np.asarray(mask))] for spectrum, mask in groups])
    lively = ~share.isnan()
    mean = power[lively].nanmean(0)
    return BandRow(
        int(lively.sum()),
        tuple(None if value != value else float(value) for value in mean.tolist()),
        float(share[lively].mean()) if bool(lively.any()) else None,
    )


def _first_readers(traced: Traced, resolved: Resolved) -> list[ConvNode]:
    """First call among all calls of convolutions that read one value."""
    first: dict[str, ConvNode] = {}
    for conv in resolved.layout.convs:
        first.setdefault(_source(traced, conv), conv)
    return list(first.values())


def _source(traced: Traced, conv: ConvNode) -> str:
    """The node that a call of a convolution reads."""
    (node,) = (n for n in traced.module.graph.nodes if n.name == conv.node)
    return str(operand(node).name)


def _few(chunks: Chunks) -> list[tuple[Tensor, ...]]:
    """The first inputs of ``chunks``, at most ``_MOST_INPUTS``."""
    inputs: list[tuple[Tensor, ...]] = []
    left = _MOST_INPUTS
    for chunk in chunks:
        if left > 0:
            inputs.append(tuple(x[:left] for x in chunk))
            left -= len(chunk[0])
    return inputs
