"""Norms over the last dimension of a channels-last map: they normalise the channels of every position.

As branches are maps (N, channels, *size) all the while, it is ``octify.nn.layer_norm`` unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from octify.layout.channels import Ids, Refusal
from octify.layout.roles import View
from octify.nn.affine import shifted, weighted, wide
from octify.nn.functional import Pair, each
from octify.nn.layer_norm import (
    Normalise,
    OctaveLayerNorm,
    layer_normalise,
    rms_normalise,
    simple_normalise,
)
from octify.ops.arithmetic import picked
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.norm import emit_module
from octify.ops.walk import Walk
from octify.trace.vendors import LAYER_NORMS, RMS_NORMS, SIMPLE_NORMS

_KEYS = ("normalized_shape", "weight", "bias", "eps")


def _view(walk: Walk, node: fx.Node, normalised: Any) -> View | Refusal:
    """The operand's view, if it is normalised over its channels and these only."""
    view = walk.view(operand(node))
    assert view is not None
    size = tuple(normalised) if isinstance(normalised, (tuple, list)) else (normalised,)
    if not view.roles.endswith("C") or view.ids.ndim != 1 or size != view.ids.shape:
        return Refusal("it normalises positions, not channels")
    return view


def _layout_module(walk: Walk, node: fx.Node) -> View | Refusal:
    path, norm = str(node.target), walk.module(node)
    reason = walk.untouched.get(path) or walk.read.get(path)
    if reason is not None:
        return Refusal(reason)
    view = _view(walk, node, norm.normalized_shape)
    if isinstance(view, View):
        walk.shared_input(node, view.ids)
    return view


def _op(name: str, normalise: Normalise, *modules: type[nn.Module] | str) -> Op:
    def emit(emitter: Emitter, node: fx.Node) -> Value:
        def make(module: nn.Module, channels: int, low: Sequence[int]) -> nn.Module:
            return OctaveLayerNorm(module, low, channels, normalise, emitter.plan.kernels)

        return emit_module(emitter, node, make)

    return Op(name, _layout_module, emit, modules=modules, views=True)


def _arguments(node: fx.Node, keys: Sequence[str]) -> dict[str, Any]:
    positional = dict(zip(keys, node.args[1:], strict=False))
    return dict.fromkeys(keys) | positional | {k: v for k, v in node.kwargs.items() if k in keys}


def _layout_function(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    arguments = _arguments(node, _KEYS)
    if not walk.coupled(operand(node)):
        return walk.dense(node)
    view = _view(walk, node, arguments["normalized_shape"])
    for other in (arguments["weight"], arguments["bias"]):
        if isinstance(view, View) and isinstance(other, fx.Node) and walk.shape(other) != view.ids.shape:
            return Refusal("its settings are computed in the model")
    return view


def _emit_function(emitter: Emitter, node: fx.Node) -> Value:
    arguments = _arguments(node, _KEYS)
    x = emitter.value(operand(node))
    assert x.mask is not None
    parts = []
    for name in ("weight", "bias"):
        whole = arguments[name]
        dense = emitter.dense(whole) if isinstance(whole, fx.Node) else None
        for chosen in (~x.mask, x.mask):
            there = dense is not None and chosen.any()
            parts.append(picked(emitter, whole, dense, chosen, 0) if there and dense is not None else None)
    eps = 1e-5 if arguments["eps"] is None else arguments["eps"]
    return emitter.pair(emitter.function(layer_norm, x.high, x.low, eps, parts[:2], parts[2:]), x.mask)


def layer_norm(
    high: Tensor | None, low: Tensor | None, eps: float, weights: Sequence[Any], biases: Sequence[Any]
) -> Pair:
    """``F.layer_norm`` over the channels of both branches; ``weights`` and ``biases`` are (high, low)."""
    normalised = layer_normalise(*each((high, low), wide), eps)
    y_high, y_low = (
        None if y is None else shifted(weighted(y, w), b)
        for y, w, b in zip(normalised, weights, biases, strict=True)
    )
    return (
        None if high is None or y_high is None else y_high.to(high.dtype),
        None if low is None or y_low is None else y_low.to(low.dtype),
    )


OPS = (
    _op(
        "LayerNorm, channels last",
        layer_normalise,
        nn.LayerNorm,
        *LAYER_NORMS,
    ),
    _op(
        "RMSNorm, channels last",
        rms_normalise,
        nn.RMSNorm,
        *RMS_NORMS,
    ),
    _op(
        "SimpleNorm, channels last",
        simple_normalise,
        *SIMPLE_NORMS,
    ),
    Op(
        "layer norm function, channels last",
        _layout_function,
        _emit_function,
        functions=(F.layer_norm, torch.layer_norm),
        views=True,
    ),
)
