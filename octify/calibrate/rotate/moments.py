"""Second moments of streams: one run of the original over the calibration inputs.

For every reader those of the high frequencies ``h = x - Pi x`` of what it reads, and the variance of what it
computes; behind every BatchNorm the covariance of what is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from octify.calibrate.rotate.streams import LinearStream, StreamReader
from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.execution import Stream
from octify.calibrate.streams.observe import Observer, observe
from octify.nn.functional import project
from octify.trace import Traced

_LEAST = 1e-12


@dataclass
class Sums:
    """Sums over ``rows`` of ``v v'`` (C, C) and of v (C,), in double precision."""

    square: Tensor = field(default_factory=lambda: torch.zeros(()))
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    rows: int = 0

    def add(self, x: Tensor) -> None:
        """Add the positions of ``x`` (N, C, *size)."""
        rows = x.detach().float().transpose(0, 1).flatten(1)
        self.square = self.square + (rows @ rows.T).double().cpu()
        self.total = self.total + rows.double().sum(1).cpu()
        self.rows += rows.shape[1]

    def moment(self) -> Tensor:
        """The mean of ``v v'``."""
        return self.square / max(1, self.rows)

    def covariance(self) -> Tensor:
        """Covariance of v, (C, C)."""
        mean = self.total / max(1, self.rows)
        return self.moment() - torch.outer(mean, mean)


@dataclass(frozen=True)
class ReadMoments:
    """Moments of what one reader can lose.

    weighing:
        ``sum over taps of W' diag(1 / variance of the outputs) W``, (C, C).
    high:
        Mean of ``h h'``, (C, C).
    """

    weighing: Tensor
    high: Tensor


@dataclass(frozen=True)
class Moments:
    """Moments of one stream: for each reader, and for each norm by path the covariance of its output."""

    readers: tuple[ReadMoments, ...]
    norms: Mapping[str, Tensor]


def moments(
    traced: Traced, some: Sequence[LinearStream], chunks: Chunks, prefix: Stream | None = None
) -> tuple[Moments, ...]:
    """The moments of every stream of ``some``; ``prefix`` as in ``observe``."""
    high: dict[str, Sums] = {}
    spreads: dict[str, _Outputs] = {}
    written: dict[str, Sums] = {}
    watch: dict[str, list[Observer]] = {}
    for stream in some:
        for reader in stream.readers:
            last = isinstance(traced.module.get_submodule(reader.path), nn.Linear) and not reader.flat
            high[reader.path], spreads[reader.path] = Sums(), _Outputs()
            for call in reader.calls:
                adder = _adder(reader, high[reader.path], spreads[reader.path], last=last)
                watch.setdefault(call, []).append(adder)
        for writer in stream.writers:
            if writer.norm is not None:
                written[writer.norm] = Sums()
                for node in traced.calls(writer.norm):
                    watch.setdefault(node.name, []).append(_result(written[writer.norm]))
    observe(traced, chunks, {name: _all(each) for name, each in watch.items()}, prefix)
    return tuple(
        Moments(
            tuple(
                ReadMoments(
                    _weighing(traced, reader, spreads[reader.path].variance()), high[reader.path].moment()
                )
                for reader in stream.readers
            ),
            {w.norm: written[w.norm].covariance() for w in stream.writers if w.norm is not None},
        )
        for stream in some
    )


@dataclass
class _Outputs:
    """Sums over ``rows`` of a layer's outputs and of their squares, (O,) each."""

    square: Tensor = field(default_factory=lambda: torch.zeros(()))
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    rows: int = 0

    def add(self, y: Tensor) -> None:
        rows = y.detach().double().transpose(0, 1).flatten(1)
        self.square = self.square + rows.square().sum(1).cpu()
        self.total = self.total + rows.sum(1).cpu()
        self.rows += rows.shape[1]

    def variance(self) -> Tensor:
        return (self.square / self.rows - (self.total / self.rows).square()).clamp_min(0)


def _adder(reader: StreamReader, high: Sums, spread: _Outputs, *, last: bool) -> Observer:
    def add(x: Tensor, y: Tensor) -> None:
        x, y = (value.movedim(-1, 1) if last else value for value in (x, y))
        spread.add(y)
        x = x.reshape(len(x), -1, *reader.flat) if reader.flat else x
        # A value without positions has no high frequencies; it counts as read, with nothing to lose.
        high.add(x - project(x) if x.ndim > 2 else torch.zeros_like(x))

    return add


def _result(sums: Sums) -> Observer:
    def add(x: Tensor, y: Tensor) -> None:
        sums.add(y)

    return add


def _all(observers: Sequence[Observer]) -> Callable[[Tensor, Tensor], None]:
    def add(x: Tensor, y: Tensor) -> None:
        for observer in observers:
            observer(x, y)

    return add


def _weighing(traced: Traced, reader: StreamReader, variance: Tensor) -> Tensor:
    layer = traced.module.get_submodule(reader.path)
    weight = layer.get_parameter("weight").detach().double().cpu()
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        weight = weight.transpose(0, 1)
    taps = weight.reshape(
        len(weight), -1, math.prod(reader.flat) if reader.flat else math.prod(weight.shape[2:])
    )
    # An output that is constant says nothing, and must not outweigh the others by being divided by nothing.
    floor = max(_LEAST, 1e-6 * float(variance.mean()))
    scaled = taps / variance.clamp_min(floor).sqrt()[:, None, None]
    return torch.einsum("oct,odt->cd", scaled, scaled)
