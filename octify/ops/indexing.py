"""Indexing: channels are taken from each branch, windows of the map at both resolutions.

Branches keep their channels in the original order, so a range of the channels is a range of each
branch. A window of the map that begins at an even position is one of the low branch too,

    (U x)[2a:] = U x[a:]        P (U x)[i::2] = P x        P y[2a:] = (P y)[a:]

and every second position of a low channel is the channel itself, at what is then full resolution.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from octify.layout.channels import Ids, Refusal
from octify.layout.roles import View
from octify.nn.functional import octave_axes
from octify.nn.guard import in_whole_blocks
from octify.nn.windows import low_window, low_window_alone
from octify.ops.base import Op, operand
from octify.ops.channel_moves import Move, MoveSite, emit_of, layout_of
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

_COMPUTED = "it indexes with computed values"


def items_of(index: Any, rank: int) -> list[Any]:
    """One item for every dimension, and None for every new one."""
    items = list(index) if isinstance(index, tuple) else [index]
    missing = rank - sum(item is not None and item is not Ellipsis for item in items)
    places = [i for i, item in enumerate(items) if item is Ellipsis] or [len(items)]
    return [
        *items[: places[0]],
        *[slice(None)] * missing,
        *[item for item in items[places[0] :] if item is not Ellipsis],
    ]


def _whole(item: Any) -> bool:
    return isinstance(item, slice) and item == slice(None)


def _getitem(site: MoveSite) -> Move | str:
    """``x[...]`` with integers, slices, new axes and lists of channels."""
    ids, roles, windows = site.view.ids, "", []
    axis = dim = 0
    for item in items_of(site.node.args[1], site.rank):
        if item is None:
            if not roles:
                return "it adds a dimension before the batch"
            ids, axis, roles = np.expand_dims(ids, axis), axis + 1, roles + "C"
            continue
        role, size = site.view.roles[dim], site.before[dim]
        dim += 1
        if role == "N":
            if not _whole(item):
                return "it picks samples of the batch"
        elif role == "S":
            if not isinstance(item, slice):
                return "it picks one position"
            windows.append(item)
        else:
            count = site.after[len(roles)] if isinstance(item, slice) else 0
            picked = _channels(item, size, count)
            if picked is None:
                return _COMPUTED
            ids = np.take(ids, picked, axis)
            axis += not isinstance(item, int)
        roles += "" if isinstance(item, int) else role
    return _windowed(site, roles, ids, windows)


def _channels(item: Any, size: int, count: int) -> Any:
    """Positions that an index takes of ``size``; None where it is computed.

    One end of a slice may be computed: ``count`` is how many it takes.
    """
    if isinstance(item, int):
        return item
    if isinstance(item, (list, tuple)) and all(isinstance(i, int) for i in item):
        return np.array(item, dtype=np.int64)
    if not isinstance(item, slice):
        return None
    start, stop = item.start, item.stop
    if isinstance(item.step, fx.Node) or (isinstance(start, fx.Node) and isinstance(stop, fx.Node)):
        return None
    if isinstance(start, fx.Node):
        stop = size if stop is None else stop % size if stop < 0 else min(stop, size)
        return np.arange(stop - count, stop) if item.step in (None, 1) else None
    if isinstance(stop, fx.Node):
        start = slice(start, None).indices(size)[0]
        step = item.step or 1
        return start + step * np.arange(count)
    taken = np.arange(size)[item]
    return taken if len(taken) else None


def _windowed(site: MoveSite, roles: str, ids: Ids, windows: Sequence[slice]) -> Move | str:
    """The move with windows along the spatial axes, if they are no obstacle."""
    if all(map(_whole, windows)):
        return Move(roles, ids)
    halved = octave_axes(len(windows))
    steps = [1 if w.step is None else w.step for w in windows]
    starts = [0 if w.start is None else w.start for w in windows]
    if not all(isinstance(n, int) for n in (*starts, *steps)):
        return _COMPUTED
    ours = [(a, s) for a, s, half in zip(starts, steps, halved, strict=True) if half]
    sizes = [n for role, n in zip(site.view.roles, site.before, strict=True) if role == "S"]
    if any(a < 0 and n % 2 for a, n in zip(starts, sizes, strict=True)):
        return "it counts positions from the end of an odd size"
    if all(s == 1 for _, s in ours):
        if any(a % 2 for a, _ in ours):
            return "its window begins at an odd position"
    elif any(s % 2 for _, s in ours):
        return "it takes every second position along one axis only, or one of an odd number"
    after = [n for role, n in zip(roles, site.after, strict=True) if role == "S"]
    return Move(roles, ids, _window(site.node, windows, after, starts, steps))


def _window(
    node: fx.Node, windows: Sequence[slice], size: Sequence[int], starts: Sequence[int], steps: Sequence[int]
) -> Callable[[Emitter, Value], Value]:
    def within(emitter: Emitter, value: Value) -> Value:
        index = fx.node.map_arg((slice(None), slice(None), *windows), emitter.dense)
        high = value.high
        from_end = [dim for dim, start in enumerate(starts, start=2) if start < 0]
        if high is not None and value.low is not None and from_end:
            high = emitter.function(in_whole_blocks, high, from_end, "it counts positions from the end")
        high = None if high is None else emitter.function(operator.getitem, high, index)
        if value.low is None:
            return Value(high)
        if high is None:
            low = emitter.function(low_window_alone, value.low, index[2:], starts, steps)
        else:
            low = emitter.function(low_window, value.low, high, size, starts, steps)
        return Value(high, low, value.mask)

    return within


def _layout_getitem(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    source, index = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    parts = walk.parts(source)
    if parts is not None:
        assert isinstance(index, int)
        return parts[index]
    return layout_of(_getitem)(walk, node)


def _emit_getitem(emitter: Emitter, node: fx.Node) -> Value:
    source, index = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    parts = emitter.parts.get(source.name)
    if parts is not None:
        assert isinstance(index, int)
        return emitter.spread(node, parts[index])
    return emit_of(_getitem)(emitter, node)


def _along(site: MoveSite, dim: Any, pick: Callable[[int], Any]) -> Move | str:
    """Take positions ``pick(size)`` along a channel dimension."""
    if not isinstance(dim, int) or site.view.roles[dim] != "C":
        return "it picks along another dimension than channels"
    roles, axis = site.view.roles, site.view.roles[: dim % site.rank].count("C")
    chosen = pick(site.before[dim])
    if chosen is None:
        return _COMPUTED
    if np.ndim(chosen) == 0:
        roles = roles[: dim % site.rank] + roles[dim % site.rank + 1 :]
    return Move(roles, np.take(site.view.ids, chosen, axis))


def _narrow(site: MoveSite) -> Move | str:
    dim, start, length = (
        operand(site.node, i, name) for i, name in ((1, "dim"), (2, "start"), (3, "length"))
    )
    if not isinstance(start, int):
        return _COMPUTED
    whole = np.arange
    length = length if isinstance(length, int) else site.after[dim]
    return _along(site, dim, lambda size: whole(size)[start:][:length])


def _select(site: MoveSite) -> Move | str:
    dim, index = operand(site.node, 1, "dim"), operand(site.node, 2, "index")
    return _along(site, dim, lambda _: index if isinstance(index, int) else None)


def _index_select(site: MoveSite) -> Move | str:
    dim, index = operand(site.node, 1, "dim"), operand(site.node, 2, "index")
    return _along(site, dim, lambda _: constant(index))


def constant(node: Any) -> Ids | None:
    """The numbers of an integer tensor that the model holds, such as a buffer of channel indices."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or node.graph.owning_module is None:
        return None
    value = operator.attrgetter(str(node.target))(node.graph.owning_module)
    whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_meta
    return value.detach().cpu().numpy().astype(np.int64) if whole else None


OPS = (
    Op("indexing", _layout_getitem, _emit_getitem, functions=(operator.getitem,), views=True),
    Op(
        "narrow",
        layout_of(_narrow),
        emit_of(_narrow),
        functions=(torch.narrow, Tensor.narrow),
        methods=("narrow",),
        views=True,
    ),
    Op(
        "select",
        layout_of(_select),
        emit_of(_select),
        functions=(torch.select, Tensor.select),
        methods=("select",),
        views=True,
    ),
    Op(
        "index_select",
        layout_of(_index_select),
        emit_of(_index_select),
        functions=(torch.index_select, Tensor.index_select),
        methods=("index_select",),
        views=True,
    ),
)
