"""Helpers of the rewrite rules of an ONNX graph (``octify.export.deploy``): facts of nodes, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriterContext


def accepted() -> MatchResult:
    """Result of a ``check`` that accepts a match."""
    return MatchResult()


def refused(why: str, where: ir.Node | ir.Value | None = None) -> MatchResult:
    """Result of a ``check`` that rejects a match, with the reason and the node or value at fault."""
    return MatchResult().fail(why, where)


def producer(value: ir.Value) -> ir.Node:
    """The node that computes ``value``, one that a pattern has matched."""
    node = value.producer()
    assert node is not None
    return node


def constant(op: RewriterContext, near: ir.Value, purpose: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """A new initialiser, named after the value it helps to compute."""
    name = f"{near.name}_{purpose}"
    value: ir.Value = op.initializer(ir.tensor(array, name=name), name=name)
    return value


def shaped(value: ir.Value, like: ir.Value, shape: Sequence[int | ir.SymbolicDim]) -> ir.Value:
    """``value``, a new intermediate one, with a type and a shape: runtimes plan their layouts by them."""
    value.type, value.shape = like.type, ir.Shape(shape)
    return value


def static_sizes(dims: Sequence[int | ir.SymbolicDim]) -> list[int] | None:
    """Return ``dims`` as integers if all of them are static, else None."""
    sizes = [n for n in dims if isinstance(n, int)]
    return sizes if len(sizes) == len(dims) else None


def channels_of(value: ir.Value) -> int:
    """Number of channels (the second dimension) of a value where it is static, else None."""
    assert value.shape is not None
    channels = value.shape[1]
    assert isinstance(channels, int)
    return channels


def ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    """Integers of an attribute, or ``default`` where it is absent."""
    attribute = node.attributes.get(name)
    return default if attribute is None else list(attribute.as_ints())


def flag(node: ir.Node, name: str, default: bool = False) -> bool:
    """Attribute that is 0 or 1, or ``default`` where it is absent."""
    attribute = node.attributes.get(name)
    return default if attribute is None else bool(attribute.as_int())


def text(node: ir.Node, name: str, default: str) -> str:
    """Attribute that is a string, or ``default`` where it is absent."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def lone_producer(value: ir.Value, *op_types: str) -> ir.Node | None:
    """The node of one of ``op_types`` that makes ``value`` for one reader; None if there is none."""
    producer = value.producer()
    lone = len(value.uses()) == 1 and not value.is_graph_output()
    return producer if producer is not None and producer.op_type in op_types and lone else None
