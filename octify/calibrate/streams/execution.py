"""Running a graph piece by piece over all calibration images.

Teacher and student advance in lockstep. Each keeps, for all images, only the values at the place
it has reached that some node beyond still has to read (a convolution's output and the inputs of
open blocks), not what lies between two such places, which is computed chunk by chunk.

Memory, whatever the number of images: the ``Store`` that both share holds at most 512 MiB
(``store.IN_MEMORY``) and puts what is more into a file; beside it there is one chunk of images at
a time, no value of which is larger than 64 MiB (``images.chunk_size``) unless a single image's is.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.store import Store, StoredValues
from octify.calibrate.streams.twins import twins
from octify.trace.inplace import OUT_OF_PLACE
from octify.trace.model import attribute

# A value may have readers still to come: in-place operations run out of place.
_OUT_OF_PLACE: dict[Any, Any] = {**OUT_OF_PLACE, torch.relu_: torch.relu}


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


@contextlib.contextmanager
def for_reading(module: nn.Module) -> Iterator[None]:
    """``module`` in eval mode, out of place and without gradients of its parameters, for the duration."""
    modes = {part: part.training for part in module.modules()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for part in modes:
        part.training = False
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with out_of_place(module):
            yield
    finally:
        for part, training in modes.items():
            part.training = training
        for parameter in trained:
            parameter.requires_grad_(True)


class Stream:
    """The values of a graph's nodes over chunks of inputs: computed on demand, freed after their last use.

    Parameters
    ----------
    graph, module:
        The graph, and whose submodules it calls (by path; a deep copy will do). In eval mode, its
        ``inplace`` flags cleared (``out_of_place``).
    chunks:
        The inputs of every chunk of images.
    store:
        Store of the values; one may serve several streams.
    origin:
        Stream of a like graph over the same chunks: values that its nodes have too (``twins``) are read from
        it, and computed there. With ``only_kept`` no others than it keeps now.
    """

    def __init__(
        self,
        graph: fx.Graph,
        module: nn.Module,
        chunks: Chunks,
        store: Store | None = None,
        origin: Stream | None = None,
        *,
        only_kept: bool = False,
    ) -> None:
        self.graph, self.module, self.chunks = graph, module, chunks
        self.store = store or Store()
        self._values: dict[fx.Node, StoredValues] = {}
        self._readers = {node: len(node.users) for node in graph.nodes}
        self._inputs = {node: i for i, node in enumerate(graph.find_nodes(op="placeholder"))}
        self._origin, self._twins = origin, dict[fx.Node, fx.Node]()
        self._borrowed: Counter[fx.Node] = Counter()  # readings of the origin's nodes that are to come
        if origin is not None:
            self._twins = origin.twins_of(graph, module, only_kept=only_kept)
            for node, twin in self._twins.items():
                self._borrow(twin, sum(user not in self._twins for user in node.users))

    def twins_of(self, graph: fx.Graph, module: nn.Module, *, only_kept: bool) -> dict[fx.Node, fx.Node]:
        """Nodes of another graph whose values this stream has or can compute, and the nodes here.

        ``only_kept``: no others than wait to be read now.
        """
        same = twins(graph, module, self.graph, self.module)
        kept = self.kept()
        return {n: twin for n, twin in same.items() if not _is_source(n) and (twin in kept or not only_kept)}

    def hold(self, node: fx.Node) -> None:
        """Count one more reader of ``node``: it stays until ``release``."""
        if node in self._twins:
            self._borrow(self._twins[node], 1)
        else:
            self._readers[node] += 1

    def release(self, node: fx.Node) -> None:
        """Give up one reading of ``node``; at the last its values are freed."""
        if node in self._twins:
            self._give_back(self._twins[node], 1)
            return
        self._readers[node] -= 1
        if self._readers[node] <= 0 and node in self._values:
            self._values.pop(node).clear()

    def close(self) -> None:
        """Forget all values, and give up what is held of the origin's."""
        for values in self._values.values():
            values.clear()
        self._values.clear()
        for twin, count in list(self._borrowed.items()):
            self._give_back(twin, count)

    def _borrow(self, twin: fx.Node, count: int) -> None:
        assert self._origin is not None
        self._borrowed[twin] += count
        for _ in range(count):
            self._origin.hold(twin)

    def _give_back(self, twin: fx.Node, count: int) -> None:
        assert self._origin is not None
        for _ in range(min(count, self._borrowed[twin])):
            self._borrowed[twin] -= 1
            self._origin.release(twin)

    def values(self, node: fx.Node) -> Sequence[Any]:
        """The values of ``node``, one for each chunk; whoever asks more than once holds the node first."""
        if self._origin is not None and node in self._twins:
            return self._origin.values(self._twins[node])
        self.reach(node)
        if _is_source(node):
            return [self._source_value(node, i) for i in range(len(self.chunks))]
        return self._values[node]

    @torch.no_grad()
    def reach(self, *nodes: fx.Node) -> None:
        """Compute the values of ``nodes`` that are not there yet, all in one pass over the chunks."""
        todo = self._missing(nodes)
        reading = Counter(source for node in todo for source in node.all_input_nodes)
        lent = {self._twins[node]: 0 for node in nodes if node in self._twins}
        lent |= {self._twins[source]: count for source, count in reading.items() if source in self._twins}
        if self._origin is not None and lent:
            self._origin.reach(*lent)
        if not todo:
            return
        for source, count in reading.items():
            self._readers[source] -= count
        kept = {
            node: self.store.values(len(self.chunks))
            for node in todo
            if node in nodes or self._readers[node] > 0
        }
        spent = [source for source in reading if source in self._values and self._readers[source] <= 0]
        for chunk in range(len(self.chunks)):
            self._run_chunk(chunk, todo, kept)
            for source in spent:
                self._values[source].drop(chunk)
        for source in spent:
            self._values.pop(source).clear()
        for twin, count in lent.items():
            self._give_back(twin, count)
        self._values |= kept

    def kept(self) -> set[fx.Node]:
        """The nodes whose values wait to be read."""
        return set(self._values)

    def _missing(self, nodes: Sequence[fx.Node]) -> list[fx.Node]:
        """Nodes that must be computed for ``nodes``, operands first."""
        order: dict[fx.Node, None] = {}
        todo = list(nodes)
        while todo:
            there = todo[-1] in order or self._is_there(todo[-1])
            operands = () if there else todo[-1].all_input_nodes
            missing = [n for n in operands if n not in order and not self._is_there(n)]
            if missing:
                todo += missing
                continue
            current = todo.pop()
            if not there:
                order[current] = None
        return list(order)

    def _is_there(self, node: fx.Node) -> bool:
        return node in self._values or node in self._twins or _is_source(node)

    def _value(self, node: fx.Node, chunk: int) -> Any:
        if self._origin is not None and node in self._twins:
            return self._origin._value(self._twins[node], chunk)
        return self._source_value(node, chunk) if _is_source(node) else self._values[node][chunk]

    def _run_chunk(self, chunk: int, todo: Sequence[fx.Node], kept: dict[fx.Node, StoredValues]) -> None:
        last = {source: node for node in todo for source in node.all_input_nodes}
        present: dict[fx.Node, Any] = {}
        for node in todo:
            for source in node.all_input_nodes:
                if source not in present:
                    present[source] = self._value(source, chunk)
            present[node] = self._run(node, present)
            if node in kept:
                kept[node].put(chunk, present[node])
            for source in node.all_input_nodes:
                if last[source] is node:
                    del present[source]

    def _source_value(self, node: fx.Node, chunk: int) -> Any:
        if node.op == "placeholder":
            return self.chunks[chunk][self._inputs[node]]
        return attribute(self.module, str(node.target))

    def _run(self, node: fx.Node, present: dict[fx.Node, Any]) -> Any:
        def value(a: Any) -> Any:
            return present[a] if isinstance(a, fx.Node) else a

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


def _is_source(node: fx.Node) -> bool:
    """Return whether a node is an input or a parameter, which needs no computation."""
    return node.op in ("placeholder", "get_attr")


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
