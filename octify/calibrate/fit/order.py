"""The order in which convolutions are repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx, nn

from octify.compat import ConvNd
from octify.trace import Traced


def repair_order(traced: Traced) -> list[fx.Node]:
    """All nodes, operands first, and of several operands the one behind fewer layers first.

    So a shortcut convolution comes before the branch it is added to, whatever order ``forward``
    wrote them in: the branch, which has more freedom, can then repair the shortcut's error. A
    convolution that is called at several places, none behind another, comes where all of its inputs
    are repaired, if there is such an order.
    """
    together = _operands_of_all_calls(traced)
    order = _ordered(traced, {n: [*n.all_input_nodes, *together.get(n, ())] for n in together})
    place = {node: i for i, node in enumerate(order)}
    proper = all(place[n] < place[node] for node in order for n in node.all_input_nodes)
    return order if proper else _ordered(traced, {})


def _operands_of_all_calls(traced: Traced) -> dict[fx.Node, list[fx.Node]]:
    """For calls of a convolution or linear layer that is called at several places, what the others read."""
    nodes = list(traced.module.graph.nodes)
    operands: dict[fx.Node, list[fx.Node]] = {}
    for path in {str(n.target) for n in nodes if n.op == "call_module"}:
        calls = traced.calls(path)
        if len(calls) < 2 or not isinstance(traced.submodule(calls[0]), (ConvNd, nn.Linear)):
            continue
        behind = _behind(nodes, calls)
        free = [call for call in calls if call not in behind]
        for call in free:
            operands[call] = [n for other in free if other is not call for n in other.all_input_nodes]
    return operands


def _behind(nodes: Sequence[fx.Node], calls: Sequence[fx.Node]) -> set[fx.Node]:
    """All nodes that depend on one of ``calls``."""
    behind: set[fx.Node] = set()
    for node in nodes:
        if any(n in behind or n in calls for n in node.all_input_nodes):
            behind.add(node)
    return behind


def _ordered(traced: Traced, operands: Mapping[fx.Node, Sequence[fx.Node]]) -> list[fx.Node]:
    """Depth first; ``operands`` says what comes before a node where that is more than its own inputs."""
    nodes = list(traced.module.graph.nodes)
    depth: dict[fx.Node, int] = {}
    for node in nodes:
        depth[node] = max((depth[n] for n in node.all_input_nodes), default=0) + 1
    order: dict[fx.Node, None] = {}
    for root in (n for n in nodes if not n.users):
        todo = {root: None}  # a stack; whoever waits on it already is not asked for again
        while todo:
            last = next(reversed(todo))
            before = operands.get(last, last.all_input_nodes)
            missing = [n for n in before if n not in order and n not in todo]
            if missing:
                todo[min(missing, key=lambda n: depth[n])] = None
            else:
                del todo[last]
                order[last] = None
    return list(order)
