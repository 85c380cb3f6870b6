"""Max and average pooling, and pooling to one sample per channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from octify.emitter import Emitter, Value, is_vector
from octify.layout import DENSE, Ids, Refusal, Walk
from octify.nn.functional import low_mean
from octify.nn.pool import OctaveAvgPool, OctaveMaxPool
from octify.ops.base import Op, operand

_MAX_KEYS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_KEYS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _settings(node: fx.Node, module: nn.Module | None, keys: tuple[str, ...]) -> dict[str, Any]:
    """The pooling's settings, from the module or from the call's arguments."""
    if module is not None:
        return {key: getattr(module, key) for key in keys if hasattr(module, key)}
    given = dict(zip(keys, node.args[1:], strict=False)) | {k: v for k, v in node.kwargs.items() if k in keys}
    return {key: value for key, value in given.items() if value is not None}


def _passes(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    module = walk.traced.submodule(node)
    indices = getattr(module, "return_indices", False) or node.kwargs.get("return_indices", False)
    if indices:
        return Refusal("it returns the indices of its maxima")
    return walk.ids(operand(node))


def _emit_max(emitter: Emitter, node: fx.Node) -> Value:
    settings = _settings(node, emitter.traced.submodule(node), _MAX_KEYS)
    settings.pop("return_indices", None)
    made = OctaveMaxPool(len(emitter.shape(node)) - 2, scheme=emitter.plan.kernels, **settings)
    return _emit_module(emitter, node, made)


def _emit_avg(emitter: Emitter, node: fx.Node) -> Value:
    settings = _settings(node, emitter.traced.submodule(node), _AVG_KEYS)
    made = OctaveAvgPool(len(emitter.shape(node)) - 2, scheme=emitter.plan.kernels, **settings)
    return _emit_module(emitter, node, made)


def _emit_module(emitter: Emitter, node: fx.Node, made: nn.Module) -> Value:
    """The pooling module in the original's place, or at a name of its own for a function."""
    x = emitter.value(operand(node))
    path = str(node.target) if node.op == "call_module" else f"octave_{node.name}"
    return emitter.pair(emitter.call(path, made, x.high, x.low), x.mask)


def _reduces_to_vector(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    """Global pooling: ids pass to (N, C, 1, 1); (N, C) is dense, its two parts are joined."""
    ids = walk.ids(operand(node))
    shape = walk.traced.shape(node)
    if ids is None or shape is None:
        return walk.dense(node)
    if len(shape) == len(walk.shape(operand(node))) and is_vector(shape):
        return ids
    return Refusal("it pools to a map, not to one sample per channel") if bool((ids != DENSE).any()) else ids


def _emit_adaptive_avg(emitter: Emitter, node: fx.Node) -> Value:
    return _mean(emitter, node, operand(node))


def _mean(emitter: Emitter, node: fx.Node, source: fx.Node) -> Value:
    """Mean over all positions with kept dimensions, the high branch by the original node."""
    x = emitter.value(source)
    high = None if x.high is None else emitter.copy(node, lambda _: x.high)  # type: ignore[arg-type, return-value]
    low = emitter.function(low_mean, x.low, x.high)
    return Value(high, low, x.mask)


def _emit_adaptive_max(emitter: Emitter, node: fx.Node) -> Value:
    return emitter.per_branch(node, operand(node))


def _mean_dims(walk: Walk | Emitter, node: fx.Node) -> tuple[set[int], bool]:
    shape = walk.traced.shape(operand(node)) or ()
    dims = operand(node, 1, "dim")
    dims = range(len(shape)) if dims is None else dims if isinstance(dims, (tuple, list)) else (dims,)
    return {d % max(1, len(shape)) for d in dims}, bool(operand(node, 2, "keepdim"))


def _layout_mean(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    source = operand(node)
    ids = walk.ids(source)
    if ids is None:
        return walk.dense(node)
    dims, keepdim = _mean_dims(walk, node)
    spatial = set(range(2, len(walk.shape(source))))
    if dims == spatial:
        return ids if keepdim else None
    return (
        Refusal("it averages over other dimensions than all positions")
        if bool((ids != DENSE).any())
        else (walk.dense(node))
    )


def _emit_mean(emitter: Emitter, node: fx.Node) -> Value:
    source = operand(node)
    if _mean_dims(emitter, node)[1]:
        return _mean(emitter, node, source)
    x = emitter.value(source)
    # Averaged with kept dimensions, joined in channel order, then flattened.
    spatial = list(range(2, len(emitter.shape(source))))
    high = None if x.high is None else emitter.function(torch.mean, x.high, spatial, True)
    vector = Value(high, emitter.function(low_mean, x.low, x.high), x.mask)
    return Value(emitter.function(torch.flatten, emitter.join(node, vector), 1))


_MAX_MODULES = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_AVG_MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE_AVG = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_ADAPTIVE_MAX = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)

OPS = (
    Op(
        "max pooling",
        _passes,
        _emit_max,
        modules=_MAX_MODULES,
        functions=(
            F.max_pool1d,
            F.max_pool2d,
            F.max_pool3d,
            torch.max_pool1d,
            torch.max_pool2d,
            torch.max_pool3d,
        ),
    ),
    Op(
        "average pooling",
        _passes,
        _emit_avg,
        modules=_AVG_MODULES,
        functions=(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    ),
    Op(
        "global average pooling",
        _reduces_to_vector,
        _emit_adaptive_avg,
        modules=_ADAPTIVE_AVG,
        functions=(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    ),
    Op(
        "global max pooling",
        _reduces_to_vector,
        _emit_adaptive_max,
        modules=_ADAPTIVE_MAX,
        functions=(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    ),
    Op("mean", _layout_mean, _emit_mean, functions=(torch.mean,), methods=("mean",)),
)
