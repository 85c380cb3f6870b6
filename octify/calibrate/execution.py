"""Running a graph one node at a time over all calibration images.

Teacher and student advance in lockstep: each keeps only the values that some node still has to
read, for all images, so memory is bounded by the widest cut through the graph (a block's
boundary and one inner value), not by its depth.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from octify.emitter import attribute

# A value may have readers still to come: in-place operations run out of place.
_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
}


@contextlib.contextmanager
def out_of_place(module: nn.Module) -> Iterator[None]:
    """Every ``inplace`` flag of ``module`` cleared for the duration."""
    flagged = [part for part in module.modules() if getattr(part, "inplace", False) is True]
    for part in flagged:
        part.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in flagged:
            part.inplace = True  # type: ignore[assignment]


class Stream:
    """The values of a graph's nodes over chunks of inputs: computed on demand, freed after their last use.

    Parameters
    ----------
    graph, module:
        The graph, and whose submodules it calls (by path; a deep copy will do). In eval mode, its
        ``inplace`` flags cleared (``out_of_place``).
    chunks:
        The inputs of every chunk of images.
    """

    def __init__(self, graph: fx.Graph, module: nn.Module, chunks: Sequence[tuple[Tensor, ...]]) -> None:
        self.module = module
        self.chunks = chunks
        self._values: dict[fx.Node, list[Any]] = {}
        self._readers = {node: len(node.users) for node in graph.nodes}
        self._inputs = {node: i for i, node in enumerate(graph.find_nodes(op="placeholder"))}

    def hold(self, node: fx.Node) -> None:
        """Count one more reader of ``node``: it stays until ``release``."""
        self._readers[node] += 1

    def release(self, node: fx.Node) -> None:
        """Give up one reading of ``node``; at the last its values are freed."""
        self._readers[node] -= 1
        if self._readers[node] <= 0:
            self._values.pop(node, None)

    def values(self, node: fx.Node) -> Sequence[Any]:
        """The values of ``node``, one for each chunk; whoever asks more than once holds the node first."""
        todo = [node]
        while todo:
            current = todo[-1]
            missing = [n for n in current.all_input_nodes if n not in self._values]
            if current in self._values or not missing:
                todo.pop()
                if current not in self._values:
                    self._compute(current)
            else:
                todo += missing
        return self._values[node]

    def kept(self) -> set[fx.Node]:
        """The nodes whose values are in memory."""
        return set(self._values)

    @torch.no_grad()
    def _compute(self, node: fx.Node) -> None:
        self._values[node] = [self._run(node, i) for i in range(len(self.chunks))]
        for source in node.all_input_nodes:
            self.release(source)

    def _run(self, node: fx.Node, chunk: int) -> Any:
        if node.op == "placeholder":
            return self.chunks[chunk][self._inputs[node]]
        if node.op == "get_attr":
            return attribute(self.module, str(node.target))

        def value(a: Any) -> Any:
            return self._values[a][chunk] if isinstance(a, fx.Node) else a

        args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
        if node.op == "output":
            return args[0]
        if node.op == "call_module":
            return self.module.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            name = str(node.target)
            plain = name.removesuffix("_")
            return getattr(args[0], plain if hasattr(args[0], plain) else name)(*args[1:], **kwargs)
        target: Any = node.target
        args, kwargs = _not_in_place(target, args, kwargs)
        return _OUT_OF_PLACE.get(target, target)(*args, **kwargs)


def _not_in_place(target: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a function with ``inplace=True``, wherever it stands, turned to False."""
    if not any(a is True for a in (*args, *kwargs.values())):
        return args, kwargs
    try:
        bound = inspect.signature(target).bind(*args, **kwargs)
    except (TypeError, ValueError):  # a builtin without a signature
        return args, {k: v for k, v in kwargs.items() if k != "inplace"}
    if "inplace" in bound.arguments:
        bound.arguments["inplace"] = False
    return bound.args, bound.kwargs
