"""Norms over the channels of every position of a map, in dimension 1 or the last.

Their statistics are maps of one channel, the only ones that are pooled and upsampled
(``octify.nn.layer_norm``). Branches are maps (N, channels, *size) wherever the original has its
channels, so that one layer serves both kinds.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from octify.layout.channels import Ids, Refusal
from octify.layout.roles import View
from octify.nn.affine import shifted, weighted
from octify.nn.layer_norm import (
    Normalise,
    OctaveLayerNorm,
    layer_normalise,
    rms_normalise,
    simple_normalise,
)
from octify.ops.arithmetic import parted_parameter
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.norm import emit_module, layout_norm, layout_view
from octify.ops.walk import Walk
from octify.trace.vendors import (
    ACTIVATED_LAYER_NORMS,
    ACTIVATED_RMS_NORMS,
    LAYER_NORMS,
    LAYER_NORMS_OF_MAPS,
    RMS_NORMS,
    RMS_NORMS_OF_MAPS,
    SIMPLE_NORMS,
    SIMPLE_NORMS_OF_MAPS,
)

_OTHER_DIMENSIONS = "it normalises over positions, not over channels alone"


def _layer(name: str, normalise: Normalise, *modules: type[nn.Module] | str, last: bool = False) -> Op:
    """The rule of layers that normalise over dimension 1, or over the ``last`` ones."""

    def emit(emitter: Emitter, node: fx.Node) -> Value:
        scheme = emitter.plan.kernels

        def make(module: nn.Module, channels: int, low: Any) -> nn.Module:
            return OctaveLayerNorm(module, low, channels, normalise, scheme)

        return emit_module(emitter, node, make)

    return Op(name, _layout_last if last else layout_norm, emit, modules=modules, views=last)


def _layout_last(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    view = walk.view(operand(node))
    shape: Any = walk.module(node).normalized_shape
    return layout_view(walk, node, None if view is None or _over_channels(view, shape) else _OTHER_DIMENSIONS)


def _over_channels(view: View, normalized_shape: Any) -> bool:
    """Return whether the channels, all of them and nothing else, are the dimensions that are normalised."""
    return view.roles.count("C") == 1 and view.roles.endswith("C") and len(normalized_shape) == 1


def _function(name: str, normalise: Normalise, function: Any, keys: tuple[str, ...], eps: float | None) -> Op:
    """The rule of a function that normalises over the last dimensions."""

    def arguments(node: fx.Node) -> dict[str, Any]:
        settings = dict(zip(keys, node.args[1:], strict=False)) | dict(node.kwargs)
        return dict.fromkeys(("bias", *keys)) | {"eps": eps} | settings

    def layout(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
        source = operand(node)
        if not walk.coupled(source):
            return walk.dense(node)
        view, shape = walk.view(source), arguments(node)["normalized_shape"]
        assert view is not None
        if not isinstance(shape, (tuple, list)) or not _over_channels(view, shape):
            return Refusal(_OTHER_DIMENSIONS)
        return view

    def emit(emitter: Emitter, node: fx.Node) -> Value:
        x, settings = emitter.value(operand(node)), arguments(node)
        assert x.mask is not None
        pair = emitter.pair(emitter.function(normalise, x.high, x.low, settings["eps"]), x.mask)
        parts = [parted_parameter(emitter, settings[key], x.mask) for key in ("weight", "bias")]
        branches = zip((pair.high, pair.low), *parts, strict=True)
        high, low = (_scaled(emitter, *branch) for branch in branches)
        return Value(high, low, x.mask)

    return Op(name, layout, emit, functions=(function,), views=True)


def _scaled(
    emitter: Emitter, y: fx.Node | None, weight: fx.Node | None, bias: fx.Node | None
) -> fx.Node | None:
    for apply, parameter in ((weighted, weight), (shifted, bias)):
        if y is not None and parameter is not None:
            y = emitter.function(apply, y, parameter)
    return y


OPS = (
    _layer(
        "LayerNorm of maps",
        layer_normalise,
        *LAYER_NORMS_OF_MAPS,
    ),
    _layer(
        "RMSNorm of maps",
        rms_normalise,
        *RMS_NORMS_OF_MAPS,
    ),
    _layer(
        "SimpleNorm of maps",
        simple_normalise,
        *SIMPLE_NORMS_OF_MAPS,
    ),
    _layer(
        "LayerNorm",
        layer_normalise,
        nn.LayerNorm,
        *LAYER_NORMS,
        *ACTIVATED_LAYER_NORMS,
        last=True,
    ),
    _layer(
        "RMSNorm",
        rms_normalise,
        nn.RMSNorm,
        *RMS_NORMS,
        *ACTIVATED_RMS_NORMS,
        last=True,
    ),
    _layer(
        "SimpleNorm",
        simple_normalise,
        *SIMPLE_NORMS,
        last=True,
    ),
    _function(
        "layer norm function",
        layer_normalise,
        F.layer_norm,
        ("normalized_shape", "weight", "bias", "eps"),
        1e-5,
    ),
    _function("rms norm function", rms_normalise, F.rms_norm, ("normalized_shape", "weight", "eps"), None),
)
