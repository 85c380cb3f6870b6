"""Channel slicing: chunk, split and x[:, a:b] take a range of each branch.

Branches keep their channels in the original order, so a range of the original channels is
a range of each branch.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from octify.emitter import Emitter, Value
from octify.layout import DENSE, Ids, Refusal, Walk
from octify.ops.base import Op, operand
from octify.views import View, standard_roles


def _dim(node: fx.Node, rank: int) -> int:
    dim = operand(node, 2, "dim")
    return 0 if dim is None else int(dim) % rank


def _lengths(node: fx.Node, channels: int) -> list[int] | None:
    """Channel counts of the parts of a chunk or split; None when they are not numbers."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    given = operand(node, 1, "chunks" if name == "chunk" else "split_size_or_sections")
    if given is None:
        given = node.kwargs.get("split_size")
    if isinstance(given, (list, tuple)):
        return [int(n) for n in given] if all(isinstance(n, int) for n in given) else None
    if not isinstance(given, int):
        return None
    each = -(-channels // given) if name == "chunk" else given
    return [min(each, channels - start) for start in range(0, channels, each)]


def _layout_parts(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    source = operand(node)
    ids = walk.ids(source)
    if ids is None:
        return None
    lengths = _lengths(node, len(ids)) if _dim(node, len(walk.shape(source))) == 1 else None
    if lengths is not None and not all(_picks_one(user) for user in node.users):
        return _refusal(ids, "its parts are used together")
    if lengths is None:
        return _refusal(ids, "it splits along another dimension than channels")
    stops = np.cumsum(lengths)
    parts = [ids[stop - n : stop] for n, stop in zip(lengths, stops, strict=True)]
    walk.set_parts(node, [View(standard_roles(len(walk.shape(source))), part) for part in parts])
    return None


def _picks_one(user: fx.Node) -> bool:
    return user.target is operator.getitem and isinstance(user.args[1], int)


def _refusal(ids: Ids, reason: str) -> Refusal | None:
    return Refusal(reason) if bool((ids != DENSE).any()) else None


def _ranged(value: Value, emitter: Emitter, start: int, stop: int) -> Value:
    """Channels ``start`` to ``stop`` of a value."""
    if value.mask is None:
        assert value.high is not None
        return Value(_narrow(emitter, value.high, start, stop))
    part = value.mask[start:stop]
    below, inside = int(value.mask[:start].sum()), int(part.sum())
    high_start, high_count = start - below, (stop - start) - inside
    return Value(
        _narrow(emitter, value.high, high_start, high_start + high_count) if high_count else None,
        _narrow(emitter, value.low, below, below + inside) if inside else None,
        part if inside else None,
    )


def _narrow(emitter: Emitter, node: fx.Node | None, start: int, stop: int) -> fx.Node:
    assert node is not None
    return emitter.function(torch.narrow, node, 1, start, stop - start)


def _emit_parts(emitter: Emitter, node: fx.Node) -> Value:
    source = operand(node)
    value = emitter.value(source)
    lengths = _lengths(node, emitter.shape(source)[1])
    assert lengths is not None
    stops = np.cumsum(lengths)
    emitter.parts[node.name] = [
        _ranged(value, emitter, int(stop) - n, int(stop)) for n, stop in zip(lengths, stops, strict=True)
    ]
    return Value(None)


def _channel_slice(index: Any, channels: int) -> tuple[int, int] | None:
    """(start, stop) of ``x[:, a:b]`` and ``x[:, a:b, ...]``; None for any other index."""
    if not isinstance(index, tuple) or len(index) < 2:
        return None
    whole = slice(None)
    chosen = index[1]
    others_whole = all(i is Ellipsis or i == whole for i in (index[0], *index[2:]))
    if not others_whole or not isinstance(chosen, slice) or chosen.step not in (None, 1):
        return None
    if any(isinstance(i, fx.Node) for i in (chosen.start, chosen.stop)):
        return None
    start, stop, _ = chosen.indices(channels)
    return (start, stop) if stop > start else None


def _layout_getitem(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    source, index = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    parts = walk.parts(source)
    if parts is not None:
        assert isinstance(index, int)
        return parts[index]
    ids = walk.ids(source)
    if ids is None:
        return walk.dense(node)
    chosen = _channel_slice(index, len(ids))
    if chosen is not None:
        return ids[chosen[0] : chosen[1]]
    return _refusal(ids, "it indexes other dimensions than channels") or walk.dense(node)


def _emit_getitem(emitter: Emitter, node: fx.Node) -> Value:
    source, index = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    parts = emitter.parts.get(source.name)
    if parts is not None:
        assert isinstance(index, int)
        return parts[index]
    value = emitter.value(source)
    chosen = _channel_slice(index, emitter.shape(source)[1])
    assert chosen is not None
    return _ranged(value, emitter, *chosen)


def _layout_narrow(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = walk.ids(operand(node))
    if ids is None:
        return walk.dense(node)
    dim, start, length = (operand(node, i, name) for i, name in ((1, "dim"), (2, "start"), (3, "length")))
    if dim == 1 and isinstance(start, int) and isinstance(length, int):
        return ids[start : start + length]
    return _refusal(ids, "it narrows another dimension than channels") or walk.dense(node)


def _emit_narrow(emitter: Emitter, node: fx.Node) -> Value:
    start, length = operand(node, 2, "start"), operand(node, 3, "length")
    return _ranged(emitter.value(operand(node)), emitter, start, start + length)


OPS = (
    Op(
        "channel parts",
        _layout_parts,
        _emit_parts,
        functions=(torch.chunk, torch.split, torch.functional.split),
        methods=("chunk", "split"),
    ),
    Op("indexing", _layout_getitem, _emit_getitem, functions=(operator.getitem,)),
    Op("narrow", _layout_narrow, _emit_narrow, functions=(torch.narrow, Tensor.narrow), methods=("narrow",)),
)
