"""Asking for shapes. A question about a size needs no data, so it is no reason to merge."""

from __future__ import annotations

import math
from operator import getitem

from torch import fx

from octify.layout.channels import Ids, Refusal
from octify.layout.roles import sizes, standard_roles
from octify.nn.functional import dense_shape
from octify.nn.views import view_shape
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

_COUNTS = ("numel", "nelement")


def _is_question(node: fx.Node) -> bool:
    return node.op == "call_method" or node.args[1] in ("shape", "ndim", "dtype", "device")


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    return None if _is_question(node) else Refusal(f"it reads the attribute {node.args[1]}")


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    source = operand(node)
    value = emitter.value(source)
    branch = value.high if value.high is not None else value.low
    if node.op == "call_function" and node.args[1] in ("dtype", "device"):
        return Value(emitter.copy(node, lambda _: branch))  # type: ignore[arg-type, return-value]
    dim = operand(node, 1, "dim") if node.op == "call_method" else None
    shape = _shape(emitter, source, value)
    if node.target in _COUNTS:
        return Value(emitter.function(math.prod, shape))
    if node.target == "dim" or "ndim" in node.args:
        return Value(emitter.function(len, shape))
    return Value(shape if dim is None else emitter.function(getitem, shape, dim))


def _shape(emitter: Emitter, source: fx.Node, value: Value) -> fx.Node:
    roles = emitter.roles(source)
    if roles == standard_roles(len(roles)):
        return emitter.function(dense_shape, value.high, value.low)
    channels = sizes(roles, emitter.shape(source), "C")
    return emitter.function(view_shape, value.high, value.low, roles, channels)


OPS = (Op("shape", _layout, _emit, functions=(getattr,), methods=("size", "dim", *_COUNTS), views=True),)
