"""Ownership of weights: layers whose tensors can be changed without an effect elsewhere."""

from __future__ import annotations

import operator
from collections import Counter

from torch import nn

from octify.trace import Traced


class Ownership:
    """Who holds and who calls the modules of a graph."""

    def __init__(self, traced: Traced) -> None:
        graph = traced.module.graph
        called = {str(n.target): traced.submodule(n) for n in graph.find_nodes(op="call_module")}
        distinct = {id(m): m for m in called.values() if m is not None}.values()
        self._holders = Counter(id(part) for module in distinct for part in module.modules())
        self._tensors = Counter(
            id(tensor)
            for module in traced.whole.modules()
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        )
        self._read: set[int] = set()
        for node in graph.find_nodes(op="get_attr"):
            value = operator.attrgetter(str(node.target))(traced.module)
            owned = value.modules() if isinstance(value, nn.Module) else ()
            self._read |= {id(value), *(id(t) for m in owned for t in (*m.parameters(), *m.buffers()))}

    def alone(self, module: nn.Module) -> bool:
        """Return whether ``module``'s tensors are its own, and only the graph's calls use it."""
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        return self._holders[id(module)] == 1 and all(
            self._tensors[id(t)] == 1 and id(t) not in self._read for t in tensors
        )
