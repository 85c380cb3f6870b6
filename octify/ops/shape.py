"""Asking for shapes. A question about a size needs no data, so it is no reason to merge.

Flatten, reshape and permute need the dense value; after global pooling joining the two
parts is free, so they need no rule of their own.
"""

from __future__ import annotations

from operator import getitem

from torch import fx

from octify.emitter import Emitter, Value
from octify.layout import Ids, Refusal, Walk
from octify.nn.functional import dense_shape
from octify.ops.base import Op, operand


def _is_question(node: fx.Node) -> bool:
    return node.op == "call_method" or node.args[1] in ("shape", "ndim", "dtype", "device")


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    return None if _is_question(node) else Refusal(f"it reads the attribute {node.args[1]}")


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    source = operand(node)
    value = emitter.value(source)
    branch = value.high if value.high is not None else value.low
    if node.op == "call_function" and node.args[1] != "shape":
        return Value(emitter.copy(node, lambda _: branch))  # type: ignore[arg-type, return-value]
    dim = operand(node, 1, "dim") if node.op == "call_method" else None
    shape = emitter.function(dense_shape, value.high, value.low)
    if node.target == "dim":
        return Value(emitter.function(len, shape))
    return Value(shape if dim is None else emitter.function(getitem, shape, dim))


OPS = (Op("shape", _layout, _emit, functions=(getattr,), methods=("size", "dim")),)
