"""Sums of several maps in the order that runtimes fuse.

An octave branch is a sum of convolutions and upsampled convolutions, often with a residual. PyTorch
adds from the left, ``(conv + up(l)) + residual``; runtimes fuse a convolution with *one* addition and
the activation behind it. So every chain of additions is written anew (sums commute, upsampling is linear)::

    conv_2 + (conv_1 + (residual + up(l_1 + l_2)))

Every convolution then takes up the addition in front of it, and the last one the activation too.

This is no rule of onnxscript's rewriter. A pattern has a fixed number of nodes; a chain has any number, and
upsampled terms have chains of their own. Were only its end matched, the rest of a chain would stay in the
graph while the next one is looked at, and count among the readers by which that one tells which terms are
read once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir


class SumsInOrder:
    """Rule that reorders every chain of additions, in place."""

    def apply_to_model(self, model: ir.Model) -> None:
        """Apply the rule to all nodes of ``model``'s graph."""
        for node in list(model.graph):
            sum_in_order(node)


def sum_in_order(node: ir.Node) -> None:
    """Reorder the chain of additions that ends in ``node``; the middle of a chain is left to its end."""
    if node.graph is None or not is_end_of_sum(node):
        return
    terms = terms_of_sum(node)
    if len(terms) > 2 or len(upsampled_terms(terms)) > 1:
        last = _ordered(node, terms)
        for index, value in enumerate(last):
            node.replace_input_with(index, value)


def is_end_of_sum(node: ir.Node) -> bool:
    """Return whether ``node`` is the last addition of a chain."""
    return _is_sum(node) and not _continues(node)


def end_of_sum(term: ir.Value) -> ir.Node | None:
    """The last addition of the chain that ``term`` is added in, its only reader; None if there is none."""
    readers = [use.node for use in term.uses()]
    if len(readers) != 1 or term.is_graph_output() or not _is_sum(readers[0]):
        return None
    end = readers[0]
    while _continues(end):
        (use,) = end.outputs[0].uses()
        end = use.node
    return end


def _ordered(before: ir.Node, terms: Sequence[ir.Value]) -> list[ir.Value]:
    """The last two terms to add, all others having been added up by nodes in front of ``before``."""
    values = _with_one_upsampling(before, terms)
    convs = [value for value in values if _is_lone(value, "Conv")]
    queue = [value for value in values if value not in convs] + convs
    while len(queue) > 2:
        queue[:2] = [_inserted(before, "Add", [queue[1], queue[0]], like=terms[0])]
    return queue[::-1]


def _with_one_upsampling(before: ir.Node, terms: Sequence[ir.Value]) -> list[ir.Value]:
    """``terms`` with those that are upsampled alike summed before: ``up(a) + up(b) = up(a + b)``."""
    groups: dict[tuple[object, ...], list[ir.Value]] = {}
    for term in upsampled_terms(terms):
        groups.setdefault(_kind(term), []).append(term)
    rest = list(terms)
    for alike in groups.values():
        if len(alike) == 1:
            continue
        first = alike[0].producer()
        sources = [term.producer().inputs[0] for term in alike]  # type: ignore[union-attr]
        assert first is not None
        inner = [source for source in sources if source is not None]
        flat = [each for source in inner for each in (_terms_of(source) or [source])]
        total = _inserted(before, "Add", _ordered(before, flat), like=inner[0])
        up = _inserted(before, "Resize", [total, *first.inputs[1:]], like=alike[0], source=first)
        rest = [term for term in rest if term not in alike] + [up]
    return rest


def _inserted(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    like: ir.Value,
    source: ir.Node | None = None,
) -> ir.Value:
    """A new node in front of ``before``; its output has the shape and type of ``like``."""
    attributes = [] if source is None else list(source.attributes.values())
    inserted = ir.Node("", op_type, inputs, attributes)
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(before, inserted)
    value = inserted.outputs[0]
    value.name = f"{before.outputs[0].name}_{op_type.lower()}_{_count(graph)}"
    value.shape, value.type = like.shape, like.type
    return value


def _count(graph: ir.Graph) -> int:
    """A number that no other node made here has: nodes are only ever added while sums are ordered."""
    return len(graph)


def terms_of_sum(node: ir.Node) -> list[ir.Value]:
    """Terms of ``node`` and of the additions in front of it that have no other reader."""
    terms: list[ir.Value] = []
    for value in node.inputs:
        assert value is not None
        terms += _terms_of(value) or [value]
    return terms


def _terms_of(value: ir.Value) -> list[ir.Value]:
    """The terms of a sum that one reader has; none if ``value`` is no such sum."""
    producer = value.producer()
    if producer is None or not _is_sum(producer) or not _is_lone(value, "Add"):
        return []
    return terms_of_sum(producer)


def upsampled_terms(terms: Sequence[ir.Value]) -> list[ir.Value]:
    """Select the ``terms`` that are copies of a smaller map's samples."""
    return [value for value in terms if _is_lone(value, "Resize") and _is_nearest(value.producer())]


def _is_nearest(node: ir.Node | None) -> bool:
    """A Resize by constant scales that copies samples."""
    if node is None or len(node.inputs) != 3 or node.inputs[2] is None or node.inputs[2].const_value is None:
        return False
    mode = node.attributes.get("mode")
    return mode is None or mode.as_string() == "nearest"


def _kind(upsampled: ir.Value) -> tuple[object, ...]:
    """Key that two upsampled values must share so that their sources can be added."""
    node = upsampled.producer()
    assert node is not None
    source, scales = node.inputs[0], node.inputs[2]
    assert source is not None and scales is not None and scales.const_value is not None
    numbers = tuple(np.asarray(scales.const_value.numpy()).tolist())
    settings = tuple(sorted((name, str(value.value)) for name, value in node.attributes.items()))
    return numbers, settings, str(source.shape)


def _is_sum(node: ir.Node) -> bool:
    """An addition of two computed values of one shape."""
    if node.op_type != "Add" or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
        return False
    a, b = node.inputs
    if a is None or b is None or a.shape is None or b.shape is None:
        return False
    return a.shape == b.shape and a.const_value is None and b.const_value is None


def _continues(node: ir.Node) -> bool:
    """Return whether ``node`` is inside a chain, which its last addition handles."""
    value = node.outputs[0]
    readers = [use.node for use in value.uses()]
    return _is_lone(value, "Add") and _is_sum(readers[0])


def _is_lone(value: ir.Value, op_type: str) -> bool:
    """Return whether an operator of ``op_type`` writes ``value``, and a single operator reads it."""
    producer = value.producer()
    return (
        producer is not None
        and producer.op_type == op_type
        and len(value.uses()) == 1
        and not value.is_graph_output()
    )
