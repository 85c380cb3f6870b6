"""Graph of the network for the report's drawing: the original's operations, splits and merges."""

from __future__ import annotations

from torch import fx

from octify.nn.functional import dense_shape
from octify.passes.rewrite import Rewritten
from octify.report.rows import GraphNode
from octify.trace import Traced

_METHODS = ("size", "dim", "numel")  # that ask for sizes, and
_ATTRIBUTES = ("shape", "ndim", "dtype", "device")  # that tell them: no value flows there


def graph_of(traced: Traced, rewritten: Rewritten) -> tuple[GraphNode, ...]:
    """Return the nodes of the drawing, operands first.

    Nodes of the rewritten graph that carry a value of the original stand for it; those that only lead
    from one to another (one branch of a pair, a change of axes, the join of a vector) are seen through.
    What depends on no input (a parameter reshaped, a size) is not drawn.
    """
    boundaries = {b.path: b for b in rewritten.boundaries if not b.vector}
    owner = _owners(traced, rewritten, frozenset(boundaries))
    originals = {node.name: node for node in traced.module.graph.nodes}
    inputs: dict[str, dict[str, None]] = {}
    sources: dict[fx.Node, dict[str, None]] = {}
    for node in rewritten.module.graph.nodes:
        operands_of: dict[str, None] = {}
        for read in node.all_input_nodes:
            operands_of |= {owner[read]: None} if read in owner else sources[read]
        sources[node] = {} if _asks(node) else operands_of
        if node in owner:
            operands = inputs.setdefault(owner[node], {})
            operands |= {name: None for name in operands_of if name != owner[node]}
    nodes: dict[str, GraphNode] = {}
    for name, operands_of in inputs.items():
        read = tuple(source for source in operands_of if source in nodes)
        boundary = boundaries.get(name)
        if boundary is not None:
            kind, reason = boundary.kind, boundary.reason
            nodes[name] = GraphNode(name, kind, "", kind, boundary.shape, 0, read, reason)
        elif read or originals[name].op in ("placeholder", "output"):  # not what depends on no input
            nodes[name] = _operation(traced, rewritten, originals[name], read)
    return tuple(nodes.values())


def _owners(traced: Traced, rewritten: Rewritten, boundaries: frozenset[str]) -> dict[fx.Node, str]:
    """Map each node of the rewritten graph to the original node or the boundary that it belongs to."""
    owner = {
        node: str(node.target)
        for node in rewritten.module.graph.find_nodes(op="call_module")
        if str(node.target) in boundaries
    }
    for node in traced.module.graph.nodes:
        value = rewritten.values[node.name]
        if node.op == "get_attr" or _asks(node):
            continue
        for branch in (value.high, value.low):
            if branch is not None:
                owner.setdefault(branch, node.name)
    return owner


def _operation(traced: Traced, rewritten: Rewritten, node: fx.Node, inputs: tuple[str, ...]) -> GraphNode:
    kind = {"placeholder": "input", "output": "output"}.get(node.op, "operation")
    module = traced.submodule(node)
    mask = rewritten.resolved.mask(node.name)
    return GraphNode(
        node.name,
        kind,
        str(node.target) if module is not None else "",
        kind if kind != "operation" else type(module).__name__ if module is not None else _name(node),
        traced.shape(node) or (),
        0 if mask is None else int(mask.sum()),
        inputs,
    )


def _asks(node: fx.Node) -> bool:
    """Return whether a node queries sizes or types, not values."""
    if node.op == "call_method":
        return str(node.target) in _METHODS
    return node.target is dense_shape or (node.target is getattr and node.args[1] in _ATTRIBUTES)


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
