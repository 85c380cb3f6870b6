"""Grouped convolutions between some of their channels: which groups meet, and a module for unequal ones.

The channels of one branch (high or low) of a value keep their order, so every group owns a
stretch of them. Where all groups own equally many inputs and outputs, a path is one grouped
convolution; else it is one for every *run* of neighbouring groups that do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.compat import ConvNd
from octify.errors import PlanError

MAX_RUNS = 8  # more small convolutions than this cost far more time than their MACs tell


@dataclass(frozen=True)
class ChannelRun:
    """Neighbouring groups with ``inputs`` input and ``outputs`` output channels each.

    ``first_in`` and ``first_out`` are the places of their first channels in the two branches.
    """

    groups: tuple[int, ...]
    inputs: int
    outputs: int
    first_in: int
    first_out: int

    @property
    def leads(self) -> bool:
        """Return whether the path has inputs and outputs."""
        return bool(self.inputs and self.outputs)


@dataclass(frozen=True)
class Grouped:
    """The channels of two branches that a grouped convolution connects, by group."""

    into: tuple[tuple[int, ...], ...]
    out: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, conv: nn.Module, into: Sequence[int], out: Sequence[int]) -> Grouped:
        """Input channels ``into`` and output channels ``out`` (both ascending) of an ``nn.Conv*d``."""
        assert isinstance(conv, ConvNd)
        return cls.between(into, conv.in_channels, out, conv.out_channels, conv.groups)

    @classmethod
    def between(
        cls, into: Sequence[int], in_channels: int, out: Sequence[int], out_channels: int, groups: int
    ) -> Grouped:
        """Channels ``into`` of ``in_channels``, and ``out`` of ``out_channels``, in ``groups`` groups."""
        return cls(_by_group(into, in_channels, groups), _by_group(out, out_channels, groups))

    @property
    def runs(self) -> tuple[ChannelRun, ...]:
        """Runs of equal groups, in order; groups without any channel here are passed over."""
        result = []
        first_in = first_out = 0
        present = [g for g in range(len(self.into)) if self.into[g] or self.out[g]]
        for (inputs, outputs), same in groupby(present, lambda g: (len(self.into[g]), len(self.out[g]))):
            groups = tuple(same)
            result.append(ChannelRun(groups, inputs, outputs, first_in, first_out))
            first_in, first_out = first_in + inputs * len(groups), first_out + outputs * len(groups)
        return tuple(result)

    def kernel(self, weight: Tensor, run: ChannelRun) -> Tensor:
        """The part of ``weight`` (O, I / groups, *taps) that connects the channels of ``run``."""
        per_out, weight = weight.shape[0] // len(self.out), weight.detach()
        rows = [
            _take(_take(weight, 0, [g * per_out + c for c in self.out[g]]), 1, self.into[g])
            for g in run.groups
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


def _by_group(channels: Sequence[int], count: int, groups: int) -> tuple[tuple[int, ...], ...]:
    """Channels counted from the first of their group."""
    per = count // groups
    by_group: list[list[int]] = [[] for _ in range(groups)]
    for channel in channels:
        by_group[channel // per].append(channel % per)
    return tuple(tuple(own) for own in by_group)


def _take(weight: Tensor, dim: int, channels: Sequence[int]) -> Tensor:
    """Channels of a weight; a range without copying."""
    first, count = channels[0], len(channels)
    if channels[-1] - first + 1 == count:
        return weight.narrow(dim, first, count)
    return weight.index_select(dim, torch.tensor(channels, device=weight.device))


def is_scattered(conv: nn.Module, low_in: Sequence[int], low_out: Sequence[int]) -> bool:
    """Return whether some path of ``conv`` in octave form would take more than ``MAX_RUNS`` convolutions."""
    assert isinstance(conv, ConvNd)
    if conv.groups == 1:
        return False
    ins, outs = _branches(conv.in_channels, low_in), _branches(conv.out_channels, low_out)
    return any(
        sum(run.leads for run in Grouped.of(conv, into, out).runs) > MAX_RUNS for into in ins for out in outs
    )


def _branches(channels: int, low: Sequence[int]) -> tuple[list[int], list[int]]:
    chosen = set(low)
    return [c for c in range(channels) if c not in chosen], sorted(chosen)


def needs_no_exchange(layer: nn.Module, low_in: Sequence[int], low_out: Sequence[int]) -> bool:
    """Return whether a layer needs no high-to-low and low-to-high paths (``exchange = "spatial"``).

    It must be a 1x1 convolution, or a linear layer, whose every output still has inputs then: in every
    group, high ones for high outputs and low ones for low outputs. Where one side is dense the paths between
    the resolutions are what splits and merges.
    """
    pointwise = pointwise_sizes(layer)
    if pointwise is None:
        return False
    groups, *sizes = pointwise
    sides = zip(_branches(sizes[0], low_in), _branches(sizes[1], low_out), strict=True)
    runs = [Grouped.between(into, sizes[0], out, sizes[1], groups).runs for into, out in sides]
    return all(own and all(run.leads for run in own) for own in runs)


def pointwise_sizes(layer: nn.Module) -> tuple[int, int, int] | None:
    """Groups, input and output channels of a 1x1 convolution or a linear layer; None for any other."""
    if isinstance(layer, nn.Linear):
        return 1, layer.in_features, layer.out_features
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and set(layer.kernel_size) == {1}:
        return layer.groups, layer.in_channels, layer.out_channels
    return None


def refuse_scattered(conv: nn.Module, low_in: Sequence[int], low_out: Sequence[int], where: str = "") -> None:
    """Raise PlanError, naming the place ``where``, if the low channels are scattered too far."""
    if is_scattered(conv, low_in, low_out):
        raise PlanError(
            f"the low channels fall into more than {MAX_RUNS} runs of equal groups",
            where=where or None,
            why="every run of groups with equally many low channels becomes a convolution of its own",
            hint="give neighbouring groups the same number of low channels in the plan",
        )


class UnevenGroups(nn.Module):
    """A convolution whose groups differ: one plain ``nn.Conv*d`` for every run of equal groups.

    Parameters
    ----------
    convs:
        The convolutions, of one geometry. Each has the bias of its own output channels, or none.
    runs:
        The run of groups of each, in order.
    out_channels:
        Number of output channels in all; channels without a run are zero.

    Shapes: (N, all input channels, *size) -> (N, out_channels, *size), as its convolutions make of ``size``.
    """

    def __init__(self, convs: Sequence[nn.Module], runs: Sequence[ChannelRun], out_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.runs = tuple(runs)
        self.out_channels = out_channels

    @property
    def padding(self) -> tuple[int, ...]:
        """Padding of each of the convolutions."""
        padding: tuple[int, ...] = self.convs[0].padding  # type: ignore[assignment]
        return padding

    def parts(self) -> Iterator[tuple[nn.Module, int]]:
        """The convolutions, each with its first output channel."""
        return zip(self.convs, (run.first_out for run in self.runs), strict=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        done = 0
        for conv, run in zip(self.convs, self.runs, strict=True):
            y = conv(x.narrow(1, run.first_in, run.inputs * len(run.groups)))
            stop = run.first_out + run.outputs * len(run.groups)
            zeros_after = self.out_channels - stop if run is self.runs[-1] else 0
            if run.first_out > done or zeros_after:
                y = F.pad(y, [*[0, 0] * (y.ndim - 2), run.first_out - done, zeros_after])
            outputs.append(y)
            done = stop
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)

    def extra_repr(self) -> str:
        return f"{sum(len(run.groups) for run in self.runs)} groups in {len(self.runs)} runs"
