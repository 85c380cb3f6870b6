"""The order in which convolutions are repaired."""

from __future__ import annotations

from torch import fx

from octify.trace import Traced


def repair_order(traced: Traced) -> list[fx.Node]:
    """All nodes, operands first, and of several operands the one behind fewer layers first.

    So a shortcut convolution comes before the branch it is added to, whatever order ``forward``
    wrote them in: the branch, which has more freedom, can then repair the shortcut's error.
    """
    nodes = list(traced.module.graph.nodes)
    depth: dict[fx.Node, int] = {}
    for node in nodes:
        depth[node] = max((depth[n] for n in node.all_input_nodes), default=0) + 1
    order: dict[fx.Node, None] = {}
    for root in (n for n in nodes if not n.users):
        todo = [root]
        while todo:
            missing = [n for n in todo[-1].all_input_nodes if n not in order]
            if missing:
                todo.append(min(missing, key=lambda n: depth[n]))
            else:
                order[todo.pop()] = None
    return list(order)
