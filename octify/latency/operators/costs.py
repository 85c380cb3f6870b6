"""Planning costs by measured time: a convolution in a runtime, dense and in its octave forms.

An octave convolution is the sum of its paths' convolutions, of the pooling in front of high-to-low
and of the upsampling behind low-to-high; its additions are fused into the convolutions. So is an
activation behind it, but for ReLU6 and its like behind a sum (``octify.export.activation``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from octify.compat import ConvNd, ConvTransposeNd
from octify.errors import PlanError
from octify.kernels.taps import PathName, Scheme
from octify.latency.operators.primitives import Operator
from octify.latency.operators.table import OperatorTable
from octify.nn.conv import OCTAVE_CONV, OctaveConv
from octify.nn.functional import low_size
from octify.nn.groups import UnevenGroups
from octify.planning.convs import Conv

NOISE = 0.02  # as a share of the time of the layers concerned


class OnnxruntimeCosts:
    """Milliseconds in a runtime on the CPU, looked up in a table (``octify.planning.costs.Costs``).

    noise:
        Share of the time of the layers concerned below which a saving counts as none.
    """

    memory_decides = False

    def __init__(self, table: OperatorTable, kernels: Scheme = "paper", noise: float = NOISE) -> None:
        self.table, self.kernels, self.noise = table, kernels, noise
        runtime = table.runtime
        where = f"({runtime}, {table.threads} thread{'s' if table.threads > 1 else ''})"
        saved = "no time" if noise == NOISE else f"under {noise:.0%} of time"
        self.nothing_saved = f"octave channels here would save {saved} {where}"
        self.boundary_too_dear = (
            f"octave channels here would save less time than their split and merge layers take {where}"
        )
        self._cache: dict[tuple[str, int, int], float] = {}

    def conv(self, conv: Conv, low_in: int, low_out: int) -> float:
        """Milliseconds of all calls of ``conv``."""
        key = (conv.path, low_in, low_out)
        if key not in self._cache:
            self._cache[key] = sum(self.table[op] for op in operators(conv, low_in, low_out, self.kernels))
        return self._cache[key]

    def boundary(self, elements: float) -> float:
        """Milliseconds of merges, proportional to the elements, as measured at a medium size."""
        if not elements:
            return 0.0
        op = Operator("merge", 1, 64, 128, (28, 28))
        return self.table[op] * elements / (128 * 56 * 56)


def operators(conv: Conv, low_in: int, low_out: int, kernels: Scheme = "paper") -> Iterator[Operator]:
    """Operators of ``conv`` with so many low channels, over all its calls."""
    for size in conv.inputs:
        if not (low_in or low_out) or conv.vector or isinstance(conv.module, ConvTransposeNd):
            yield _dense(conv.module, conv.batch, size)
        else:
            yield from _octave(conv, size, low_in, low_out, kernels)


def _octave(
    conv: Conv, size: tuple[int, ...], low_in: int, low_out: int, kernels: Scheme
) -> Iterator[Operator]:
    module: Any = conv.module
    try:
        layer = OCTAVE_CONV[len(size)].from_conv(
            _shape_only(module),
            _last(module.in_channels, low_in, module.groups),
            _last(module.out_channels, low_out, module.groups),
            kernels,
            conv.exchange,
        )
    except PlanError:  # no such form: never worth it
        yield _dense(module, conv.batch, size)
        return
    need = tuple(axis.output_length(n) for axis, n in zip(layer.axes, size, strict=True))
    if PathName.HIGH_TO_LOW in layer.recipes:
        yield Operator("pool", conv.batch, module.in_channels - low_in, module.in_channels - low_in, size)
    for name in layer.recipes:
        yield from _path(layer, name, conv.batch, size, need)
    targets: list[str] = [name.target for name in layer.recipes]
    for target, channels, out in (
        ("high", module.out_channels - low_out, need),
        ("low", low_out, low_size(need)),
    ):
        if conv.clipped and targets.count(target) > 1:
            yield Operator("clip", conv.batch, channels, channels, tuple(out))


def _path(
    octave: OctaveConv, name: PathName, batch: int, size: tuple[int, ...], need: tuple[int, ...]
) -> Iterator[Operator]:
    recipe = octave.recipes[name]
    low = low_size(size)
    reads = {"pool": low, "up": size}.get(recipe.before or "", low if name.source == "low" else size)
    target = low_size(need) if name.target == "low" else need
    gives = octave.inner_size(name, size, target)
    path = getattr(octave, name.value)
    for conv in path.convs if isinstance(path, UnevenGroups) else [path]:
        yield _convolution(conv, batch, tuple(reads), tuple(gives))
    if "up" in (recipe.before, recipe.after):
        channels = path.out_channels if recipe.after == "up" else path.in_channels
        yield Operator("up", batch, channels, channels, tuple(low_size(need)))


def _dense(conv: ConvNd, batch: int, size: tuple[int, ...]) -> Operator:
    return _convolution(conv, batch, size, None)


def _convolution(conv: Any, batch: int, size: tuple[int, ...], gives: Sequence[int] | None) -> Operator:
    """Operator of ``conv`` on a map of ``size``, padded to return a map of that size, or as it is."""
    dims = range(len(size))
    transposed = isinstance(conv, ConvTransposeNd)
    if gives is None or transposed:
        padding = [0 if isinstance(conv.padding, str) else int(conv.padding[a]) for a in dims]
        if conv.padding == "same":
            padding = [conv.dilation[a] * (conv.kernel_size[a] - 1) // 2 for a in dims]
        pads = (*padding, *padding)
    else:
        total = [
            max(
                0,
                (gives[a] - 1) * conv.stride[a] + conv.dilation[a] * (conv.kernel_size[a] - 1) + 1 - size[a],
            )
            for a in dims
        ]
        pads = (*(t // 2 for t in total), *(t - t // 2 for t in total))
    return Operator(
        "conv_transpose" if transposed else "conv",
        batch,
        conv.in_channels,
        conv.out_channels,
        size,
        tuple(conv.kernel_size),
        tuple(conv.stride),
        tuple(conv.dilation),
        pads,
        conv.groups,
    )


def _shape_only(module: Any) -> nn.Module:
    """Convolution of the same shape, without bias and with uninitialised weights."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(module.kernel_size)]
    copied = kind(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
        bias=False,
        device="meta",
    )
    copied.weight = nn.Parameter(torch.empty(copied.weight.shape), requires_grad=False)
    if getattr(module, "same", False):
        copied.same = True  # type: ignore[assignment]
    return copied


def _last(channels: int, low: int, groups: int) -> tuple[int, ...]:
    """Last channels of every group, ``low`` in all, distributed as evenly as possible."""
    if groups == channels:
        return tuple(range(channels - low, channels))
    per = channels // groups
    each = math.ceil(low / groups)
    chosen = [g * per + c for g in range(groups) for c in range(per - min(each, per), per)]
    return tuple(sorted(chosen[:low]))
