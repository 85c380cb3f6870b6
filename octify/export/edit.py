"""Small edits of an ONNX graph that several rules make (``octify.export.deploy``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


def becomes(node: ir.Node, op_type: str, *inputs: ir.Value) -> None:
    """Make ``node`` another operator, in place: whoever reads its output, the graph included, keeps it."""
    node.op_type = op_type
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def constant(graph: ir.Graph, near: ir.Value, purpose: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """A new initialiser, named after the value it helps to compute."""
    name = f"{near.name}_{purpose}"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype  # type: ignore[union-attr]
    graph.register_initializer(value)
    return value


def known(dims: Sequence[int | ir.SymbolicDim]) -> list[int] | None:
    """``dims`` if none of them is open."""
    sizes = [n for n in dims if isinstance(n, int)]
    return sizes if len(sizes) == len(dims) else None


def ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    """The integers of an attribute, or ``default`` where it is not given."""
    attribute = node.attributes.get(name)
    return default if attribute is None else list(attribute.as_ints())


def inserted(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    attributes: Sequence[ir.Attr] = (),
) -> ir.Value:
    """The output, called ``name``, of a new node in front of ``before``."""
    made = ir.Node("", op_type, inputs, attributes)
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(before, made)
    made.outputs[0].name = name
    return made.outputs[0]


def lone_producer(value: ir.Value, *op_types: str) -> ir.Node | None:
    """The node of one of ``op_types`` that makes ``value`` for one reader; None if there is none."""
    producer = value.producer()
    lone = len(value.uses()) == 1 and not value.is_graph_output()
    return producer if producer is not None and producer.op_type in op_types and lone else None
