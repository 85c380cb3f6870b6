"""A part of a value that is changed in place, written back into the value.

``y[:, :4].mul_(2)`` changes ``y``. In data flow the changed part is a value of its own, so the whole is made
anew from it: the way back from each view to what it is a view of. Other views of the whole are taken again.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import fx

from octify.nn.assign import assigned
from octify.trace.views import ancestry, is_tuple_of_views, name_of, views_of

_RESHAPES = (
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "view_as",
    "reshape_as",
    "ravel",
)
_EXCHANGES = ("transpose", "swapaxes", "swapdims")
_MOVES = ("movedim", "moveaxis")
_JOINED = ("chunk", "split", "tensor_split", "unbind", "unsafe_chunk", "unsafe_split", "split_with_sizes")


class Memory(Protocol):
    """Knowledge of the memory of traced values, whatever the inputs' sizes."""

    def are_one(self, a: fx.Node, b: fx.Node) -> bool:
        """Return whether two values are the same entries of the same memory."""

    def share(self, a: fx.Node, b: fx.Node) -> bool | None:
        """Return whether two tensors share memory; None where that is not known."""

    def count(self, node: fx.Node) -> int | None:
        """The number of members of a tuple; None where it is not known."""

    def notice(self, node: fx.Node) -> None:
        """Compute a node that was added to the graph."""


class _Behind:
    """Adds nodes behind another, one after the other."""

    def __init__(self, graph: fx.Graph, last: fx.Node, memory: Memory) -> None:
        self._graph, self._last, self._memory = graph, last, memory
        self.added: list[fx.Node] = []

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        kind = "call_method" if isinstance(target, str) else "call_function"
        return self._add(lambda: self._graph.create_node(kind, target, args, kwargs))

    def copy(self, node: fx.Node, instead: Mapping[fx.Node, fx.Node]) -> fx.Node:
        return self._add(lambda: self._graph.node_copy(node, lambda n: instead.get(n, n)))

    def _add(self, make: Callable[[], fx.Node]) -> fx.Node:
        with self._graph.inserting_after(self._last):
            self._last = make()
        self._memory.notice(self._last)
        self.added.append(self._last)
        return self._last


def write_back(
    graph: fx.Graph, names: Collection[fx.Node], changed: fx.Node, result: fx.Node, memory: Memory
) -> list[fx.Node] | None:
    """Let later readers of what ``changed`` is a view of read a value that holds ``result`` in its place.

    Parameters
    ----------
    names:
        All values that are ``changed`` itself.
    changed, result:
        A view, and what an operation in place has made of it.

    Returns
    -------
    The nodes that were added, behind ``result``; None, and the graph as it was, if there is no way back.
    """
    steps = _way_back(changed, memory)
    place = {node: index for index, node in enumerate(graph.nodes)}
    whole = changed if not steps else steps[-1][1]
    views = (
        None if steps is None else _true_views(whole, {n for n in place if place[n] < place[result]}, memory)
    )
    if views is None or steps is None:
        return None
    later = {
        node: [user for user in node.users if place[user] > place[result]]
        for node in {whole, *views, *names, result}
    }
    writer, value = _Behind(graph, result, memory), result
    for view, parent in steps:
        value = _inverse(writer, view, parent, value, memory)
    # Whatever is read later is taken from the new whole: an operation may change that part once more.
    versions = {whole: value}
    read = {view for view in views if later[view]}
    if any(later[name] for name in (*names, result)):
        read.add(changed)
    again = {each for view in read for each in ancestry(view) if each in views}
    for view in sorted(again, key=place.__getitem__):
        versions[view] = writer.copy(view, versions)
    for old, users in later.items():
        new = versions.get(changed if old in (*names, result) else old)
        for user in users:
            if new is not None:
                user.replace_input_with(old, new)
    for view in sorted(set(views_of(value)) & place.keys(), key=place.__getitem__):
        memory.notice(view)  # it was computed of the old whole
    return writer.added


def _true_views(whole: fx.Node, earlier: Collection[fx.Node], memory: Memory) -> set[fx.Node] | None:
    """The ``earlier`` nodes that are views of ``whole``, and no copies; None where that is not known."""
    views: set[fx.Node] = set()
    for view in views_of(whole):
        if view not in earlier or not (view.args[0] is whole or view.args[0] in views):
            continue
        shares = True if is_tuple_of_views(view) else memory.share(view, whole)
        if shares is None:
            return None
        if shares:
            views.add(view)
    return views


def _way_back(changed: fx.Node, memory: Memory) -> list[tuple[fx.Node, fx.Node]] | None:
    """Views and what they are views of, from ``changed`` on; None where a step has no inverse."""
    chain = [each for each in ancestry(changed) if not is_tuple_of_views(each)]
    steps = list(itertools.pairwise(chain))
    certain = all(_has_inverse(view, memory) and memory.share(view, parent) for view, parent in steps)
    return steps if certain else None


def _argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _dim(whole: fx.Node) -> Any:
    """The dimension along which a tuple of views parts its operand."""
    return _argument(whole, 1 if name_of(whole) == "unbind" else 2, "dim", 0)


def _tuple_of(view: fx.Node) -> fx.Node | None:
    source = view.args[0]
    is_member = view.target is operator.getitem and isinstance(source, fx.Node) and is_tuple_of_views(source)
    return source if is_member and isinstance(source, fx.Node) else None


def _has_inverse(view: fx.Node, memory: Memory) -> bool:
    whole, name = _tuple_of(view), name_of(view)
    if whole is not None:
        numbers = isinstance(view.args[1], int) and isinstance(_dim(whole), int)
        return numbers and name_of(whole) in _JOINED and memory.count(whole) is not None
    if view.target is operator.getitem:
        index = view.args[1]
        items = index if isinstance(index, tuple) else (index,)
        return all(item is None or item is Ellipsis or isinstance(item, (int, slice)) for item in items)
    if name in ("narrow", "select"):
        return all(isinstance(argument, int) for argument in (*view.args[1:], *view.kwargs.values()))
    if name == "permute":
        return all(isinstance(dim, int) for dim in _order(view))
    if name in _EXCHANGES or name in _MOVES:
        return len(view.args) == 3 and not view.kwargs
    return name in _RESHAPES and not any(isinstance(argument, torch.dtype) for argument in view.args)


def _order(view: fx.Node) -> tuple[Any, ...]:
    first = _argument(view, 1, "dims")
    return tuple(first) if isinstance(first, (tuple, list)) else tuple(view.args[1:])


def _inverse(writer: _Behind, view: fx.Node, parent: fx.Node, value: fx.Node, memory: Memory) -> fx.Node:
    """A new ``parent``, of which ``value`` is the ``view``."""
    whole, name = _tuple_of(view), name_of(view)
    if whole is not None:
        count = memory.count(whole) or 1
        at = int(str(view.args[1])) % count
        members = [value if i == at else writer.call(operator.getitem, whole, i) for i in range(count)]
        return writer.call(torch.stack if name_of(whole) == "unbind" else torch.cat, members, _dim(whole))
    if view.target is operator.getitem:
        return writer.call(assigned, parent, view.args[1], value)
    if name in ("narrow", "select"):
        return writer.call(assigned, parent, tuple(_index(view)), value)
    if name == "permute":
        order = _order(view)
        return writer.call("permute", value, *sorted(range(len(order)), key=lambda d: order[d] % len(order)))
    if name in _EXCHANGES:
        return writer.call(name, value, *view.args[1:])
    if name in _MOVES:
        return writer.call(name, value, view.args[2], view.args[1])
    return writer.call("reshape_as", value, parent)


def _index(view: fx.Node) -> Iterator[Any]:
    """The index that takes what ``narrow`` or ``select`` takes."""
    dim, first = _argument(view, 1, "dim"), _argument(view, 2, "start", view.kwargs.get("index"))
    item = slice(first, first + _argument(view, 3, "length")) if name_of(view) == "narrow" else first
    if dim < 0:
        yield from (..., item, *[slice(None)] * (-dim - 1))
    else:
        yield from (*[slice(None)] * dim, item)
