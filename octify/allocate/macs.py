"""MACs of a plan from shapes and numbers of channels: no graph is rewritten.

Each of the four paths of an octave convolution computes, for every pair of an input and an output channel
that its groups connect, a fixed number of MACs (taps times positions), which kernels, padding and sizes
decide, odd ones included. That number is counted once for each geometry, on a convolution of two channels
with this geometry; a plan then costs a sum over pairs.

Exact for all convolutions and linear layers that a plan names. Estimated, from the share of low channels:
convolutions that no plan can name (``F.conv2d``, anti-aliasing blurs). As they are: matrix products of
other operations. Models that are converted in parts run at several sizes: the largest speaks for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from octify.compat import ConvNd, ConvTransposeNd, FakeTensorMode
from octify.kernels.taps import PathName, Scheme
from octify.layout.channels import ConvNode
from octify.layout.roles import map_shape
from octify.layout.single import single_axes
from octify.nn.conv import CONV_TRANSPOSE, OCTAVE_CONV, OctaveConv, axes_of
from octify.nn.conv_transpose import OCTAVE_CONV_TRANSPOSE
from octify.nn.exchange import exchange_of, has_path
from octify.nn.functional import low_size, octave_axes, output_sizes
from octify.nn.padded import OCTAVE_PADDED, padded_conv
from octify.ops.base import operand
from octify.ops.effective_conv import Form, form_of, join_pads
from octify.ops.linear import conv_form
from octify.ops.padding import through_padding
from octify.passes.resolve import Planned
from octify.plan import ConvPlan
from octify.trace import Traced


@dataclass(frozen=True)
class _Geometry:
    """Properties of a convolution that the MACs of a path depend on, other than channels.

    size:
        Spatial size of the input, before any padding.
    settings:
        Arguments of the convolution, from which ``_two_channels`` builds one.
    """

    kernel: tuple[int, ...]
    size: tuple[int, ...]
    transposed: bool
    settings: tuple[object, ...]


@dataclass(frozen=True)
class _ConvCall:
    """One call of a convolution: its geometry, and how many maps it reads."""

    module: nn.Module
    geometry: _Geometry
    batch: int
    macs: int


class MacCounts:
    """Counter of the MACs of one traced model under plans."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.dense = sum(facts.macs for facts in traced.facts.values())
        self._nodes = {node.name: node for node in traced.module.graph.nodes}
        self._calls: dict[str, _ConvCall] = {}
        self._units: dict[tuple[_Geometry, Scheme, bool], Mapping[PathName, int]] = {}

    def of(self, planned: Planned, convs: Sequence[ConvNode]) -> int:
        """MACs of the model under ``planned``, whose plan concerns the calls ``convs``."""
        total = self.dense
        for call in convs:
            entry = planned.plan.conv(call.path)
            if entry.converted:
                total += self._octave(call, entry) - self.traced.facts[call.node].macs
        return total + self._unnamed(planned, {call.node for call in convs})

    def _octave(self, node: ConvNode, entry: ConvPlan) -> int:
        call = self._call(node)
        units = self._unit(call.geometry, entry.kernels, len(entry.low_in) == entry.in_channels)
        groups = getattr(call.module, "groups", 1)
        exchange = exchange_of(call.module, entry.exchange, entry.low_in, entry.low_out)
        pairs = {name: n if has_path(exchange, name) else 0 for name, n in _pairs(entry, groups).items()}
        macs = sum(units.get(name, 0) * n for name, n in pairs.items())
        if self.traced.parts is None:
            return call.batch * macs
        dense = self._unit(call.geometry, entry.kernels, False)[PathName.HIGH_TO_HIGH] * sum(
            _pairs(entry, groups).values()
        )
        return round(call.macs * macs / dense)

    def _unnamed(self, planned: Planned, named: set[str]) -> int:
        """MACs that convolutions without an entry in any plan save, as a number below 0."""
        if planned.resolved is None:
            return 0
        saved = 0.0
        for node in self.traced.module.graph.nodes:
            facts = self.traced.facts[node.name]
            if not facts.macs or node.name in named or facts.shape is None or len(facts.shape) < 3:
                continue
            mask = planned.resolved.mask(node.name)
            if mask is not None and node.name not in planned.resolved.layout.views:
                size = facts.shape[2:]
                quarter = math.prod(low_size(size)) / math.prod(size)
                saved += facts.macs * float(mask.mean()) * (1 - quarter)
        return -round(saved)

    def _call(self, node: ConvNode) -> _ConvCall:
        if node.node not in self._calls:
            self._calls[node.node] = _call(self.traced, self._nodes[node.node])
        return self._calls[node.node]

    def _unit(self, geometry: _Geometry, scheme: Scheme, only_low: bool) -> Mapping[PathName, int]:
        key = (geometry, scheme, only_low)
        if key not in self._units:
            self._units[key] = _counted(geometry, scheme, only_low)
        return self._units[key]


def _call(traced: Traced, node: fx.Node) -> _ConvCall:
    module = traced.submodule(node)
    source = operand(node)
    assert module is not None and isinstance(source, fx.Node)
    macs = traced.facts[node.name].macs
    shape = traced.shape(source)
    assert shape is not None
    if isinstance(module, nn.Linear):
        shape = map_shape("N" + "S" * (len(shape) - 2) + "C", shape)
        conv = conv_form(module, len(shape) - 2)
        return _ConvCall(module, _plain(conv, shape, None, shape), shape[0], macs)
    assert isinstance(module, ConvNd)
    if isinstance(module, ConvTransposeNd):
        settings = (module.stride, module.padding, module.output_padding, module.dilation)
        geometry = _Geometry(module.kernel_size, tuple(shape[2:]), True, settings)
        return _ConvCall(module, geometry, shape[0], macs)
    outer, pads = through_padding(traced, node)
    read = traced.shape(outer)
    assert read is not None
    return _ConvCall(module, _plain(module, shape, pads, read), shape[0], macs)


def _plain(conv: ConvNd, shape: Sequence[int], before: object, read: Sequence[int]) -> _Geometry:
    """The geometry of a plain convolution, which takes over the padding ``before`` where there is one."""
    form = form_of(conv, shape)
    assert isinstance(form, Form)
    joined = (form.pads, form.mode) if before is None else join_pads(before, (form.pads, form.mode))  # type: ignore[arg-type]
    assert joined is not None
    settings = (form.stride, form.dilation, *joined, form.same)
    return _Geometry(tuple(conv.kernel_size), tuple(read[2:]), False, settings)


def _counted(geometry: _Geometry, scheme: Scheme, only_low: bool) -> Mapping[PathName, int]:
    """MACs of each path for one map and one pair of channels; with ``only_low`` from low inputs alone."""
    layer = _two_channels(geometry, scheme).eval()
    counts: dict[PathName, int] = {}
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        high = None if only_low else torch.empty(1, 1, *geometry.size)
        low = torch.empty(1, 1, *low_size(geometry.size))
        size, high_out, low_out = output_sizes(high, low, layer.axes)
        for name in PathName:
            if only_low and name.source == "high":
                continue
            need = high_out if name.target == "high" else low_out
            branches = (high, None) if name.source == "high" else (None, low)
            with FlopCounterMode(display=False) as counter:
                layer.branch(name.target, branches[0], branches[1], size, need)
            counts[name] = counter.get_total_flops() // 2
    return counts


def _two_channels(geometry: _Geometry, scheme: Scheme) -> OctaveConv:
    """An octave convolution of this geometry with one high and one low channel on either side."""
    dims = len(geometry.kernel)
    if geometry.transposed:
        stride, padding, output_padding, dilation = geometry.settings
        dense = CONV_TRANSPOSE[dims](
            2,
            2,
            geometry.kernel,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
        )
        return OCTAVE_CONV_TRANSPOSE[dims].from_conv(dense, (1,), (1,), scheme)
    stride, dilation, pads, mode, same = geometry.settings
    weight = nn.Parameter(torch.ones(2, 2, *geometry.kernel))
    plain = padded_conv(weight, None, stride, dilation, 1, pads, mode, same)  # type: ignore[arg-type]
    if mode == "zeros":
        out = [axis.output_length(n) for axis, n in zip(axes_of(plain), geometry.size, strict=True)]
        plain.single = single_axes(geometry.size, out, octave_axes(dims))
    kinds: Mapping[int, type[OctaveConv]] = OCTAVE_CONV if plain.padding_mode == "zeros" else OCTAVE_PADDED
    return kinds[dims].from_conv(plain, (1,), (1,), scheme)


def _pairs(entry: ConvPlan, groups: int) -> dict[PathName, int]:
    """Number of pairs of an input and an output channel that each path connects."""
    sides = []
    for low, channels in ((entry.low_in, entry.in_channels), (entry.low_out, entry.out_channels)):
        per = channels // groups
        lows = np.bincount(np.asarray(low, dtype=np.int64) // per, minlength=groups)
        sides.append({"low": lows, "high": per - lows})
    return {name: int(sides[0][name.source] @ sides[1][name.target]) for name in PathName}
