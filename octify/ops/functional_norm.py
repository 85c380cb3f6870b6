"""Norms called as functions: the rules of the layers, with weights that are values of the graph.

Parameters stay where they are in the model; every branch picks its channels' part of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from octify.layout.channels import DENSE, Ids, Refusal, indices
from octify.nn.group_norm import GroupNormalise
from octify.nn.layer_norm import l1_normalise, l2_normalise
from octify.ops.arithmetic import parted_parameter
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

_GROUP_KEYS = ("num_groups", "weight", "bias", "eps")
_CHANNEL_KEYS = ("running_mean", "running_var", "weight", "bias")
_BATCH_KEYS = (*_CHANNEL_KEYS, "training", "momentum", "eps")
_INSTANCE_KEYS = (*_CHANNEL_KEYS, "use_input_stats", "momentum", "eps")


def _arguments(node: fx.Node, keys: tuple[str, ...], **defaults: Any) -> dict[str, Any]:
    """The arguments after the first, by name."""
    arguments = dict(zip(keys, node.args[1:], strict=False)) | dict(node.kwargs)
    return dict.fromkeys(keys) | defaults | arguments


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    """Channels pass through, if whatever else is given has one entry per channel."""
    ids = walk.ids(operand(node))
    if ids is None or not bool((ids != DENSE).any()):
        return ids
    for other in (*node.args[1:], *node.kwargs.values()):
        if not isinstance(other, fx.Node) or other is operand(node):
            continue
        if not walk.is_tensor(other) or walk.shape(other) != (len(ids),):
            return Refusal("its settings are computed in the model")
    return ids


def _emit_group(emitter: Emitter, node: fx.Node) -> Value:
    arguments = _arguments(node, _GROUP_KEYS, eps=1e-5)
    return _normalised(emitter, node, arguments["num_groups"], arguments)


def _normalised(emitter: Emitter, node: fx.Node, groups: int, arguments: dict[str, Any]) -> Value:
    x = emitter.value(operand(node))
    assert x.mask is not None
    layer = GroupNormalise(len(x.mask), indices(x.mask), groups, arguments["eps"])
    weights, biases = (parted_parameter(emitter, arguments[name], x.mask) for name in ("weight", "bias"))
    return emitter.pair(emitter.call(f"octave_{node.name}", layer, x.high, x.low, weights, biases), x.mask)


def _layout_batch(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = _layout(walk, node)
    if isinstance(ids, Refusal) or ids is None or not bool((ids != DENSE).any()):
        return ids
    if _arguments(node, _BATCH_KEYS, training=False)["training"] is not False:
        return Refusal("it normalises with the statistics of the batch")
    return ids


def _emit_batch(emitter: Emitter, node: fx.Node) -> Value:
    return _by_running_statistics(emitter, node, _arguments(node, _BATCH_KEYS, momentum=0.1, eps=1e-5))


def _by_running_statistics(emitter: Emitter, node: fx.Node, arguments: dict[str, Any]) -> Value:
    x = emitter.value(operand(node))
    assert x.mask is not None
    parts = [parted_parameter(emitter, arguments[name], x.mask) for name in _CHANNEL_KEYS]
    rest = (False, arguments["momentum"], arguments["eps"])
    high, low = (
        None if branch is None else emitter.function(F.batch_norm, branch, *own, *rest)
        for branch, own in zip((x.high, x.low), zip(*parts, strict=True), strict=True)
    )
    return Value(high, low, x.mask)


def _layout_instance(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = _layout(walk, node)
    if isinstance(ids, Refusal) or ids is None or not bool((ids != DENSE).any()):
        return ids
    arguments = _arguments(node, _INSTANCE_KEYS, use_input_stats=True)
    if arguments["use_input_stats"] and arguments["running_mean"] is not None:
        return Refusal("it updates running statistics")
    return ids


def _emit_instance(emitter: Emitter, node: fx.Node) -> Value:
    arguments = _arguments(node, _INSTANCE_KEYS, use_input_stats=True, momentum=0.1, eps=1e-5)
    if not arguments["use_input_stats"]:
        return _by_running_statistics(emitter, node, arguments)
    return _normalised(emitter, node, emitter.shape(operand(node))[1], arguments)


def _layout_normalize(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = walk.ids(operand(node))
    if ids is None or not bool((ids != DENSE).any()):
        return ids
    arguments = _arguments(node, ("p", "dim", "eps", "out"), p=2.0, dim=1, eps=1e-12)
    dim = arguments["dim"] if isinstance(arguments["dim"], int) else None
    if dim is None or dim % len(walk.shape(operand(node))) != 1:
        return Refusal("it normalises along another dimension than channels")
    if arguments["p"] not in (1, 2) or arguments["out"] is not None or isinstance(arguments["eps"], fx.Node):
        return Refusal("octify normalises lengths of order 1 and 2 only")
    return ids


def _emit_normalize(emitter: Emitter, node: fx.Node) -> Value:
    arguments = _arguments(node, ("p", "dim", "eps", "out"), p=2.0, eps=1e-12)
    x = emitter.value(operand(node))
    function: Callable[..., Any] = l2_normalise if arguments["p"] == 2 else l1_normalise
    return emitter.pair(emitter.function(function, x.high, x.low, arguments["eps"]), x.mask)


OPS = (
    Op("group norm function", _layout, _emit_group, functions=(F.group_norm, torch.group_norm)),
    Op("batch norm function", _layout_batch, _emit_batch, functions=(F.batch_norm,)),
    Op("instance norm function", _layout_instance, _emit_instance, functions=(F.instance_norm,)),
    Op("normalize", _layout_normalize, _emit_normalize, functions=(F.normalize,)),
)
