"""Flipping, rolling and repeating: of channels it is a new order, of positions it is done on both branches.

Positions of an even size flip and roll by whole blocks at half resolution, so both commute with
``P`` and ``U``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from octify.layout.roles import sizes
from octify.nn.functional import octave_axes
from octify.nn.guard import in_whole_blocks
from octify.nn.views import view_shape
from octify.ops.base import Op, operand
from octify.ops.channel_moves import Move, MoveSite, emit_of, layout_of
from octify.ops.emitter import Emitter, Value

_COMPUTED = "its arguments are computed"
_ODD = "it moves positions of an odd size, which are not whole blocks"
_BATCH = "it moves or repeats samples of the batch"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _arguments(node: fx.Node, name: str) -> list[Any]:
    """Numbers given one by one or as a tuple."""
    argument = operand(node, 1, name)
    return _listed(argument) if isinstance(argument, (tuple, list)) else list(node.args[1:])


def _flip(site: MoveSite) -> Move | str:
    dims = _arguments(site.node, "dims")
    if not all(isinstance(dim, int) for dim in dims):
        return _COMPUTED
    ids, axes = site.view.ids, []
    for dim in (d % site.rank for d in dims):
        role = site.view.roles[dim]
        if role == "N":
            return _BATCH
        if role == "C":
            ids = np.flip(ids, site.view.roles[:dim].count("C"))
        elif site.before[dim] % 2 and site.before[dim] > 1:
            return _ODD
        else:
            axes.append(2 + site.view.roles[:dim].count("S"))

    def within(emitter: Emitter, value: Value) -> Value:
        if value.high is not None and value.low is not None:
            value = replace(
                value, high=emitter.function(in_whole_blocks, value.high, axes, "it flips positions")
            )
        return value.each(lambda branch: emitter.function(torch.flip, branch, axes))

    return Move(site.view.roles, ids, within if axes else None)


def _roll(site: MoveSite) -> Move | str:
    shifts, dims = (_listed(operand(site.node, i, name)) for i, name in ((1, "shifts"), (2, "dims")))
    if not all(isinstance(n, int) for n in (*shifts, *dims)):
        return _COMPUTED if len(dims) == len(shifts) else "it rolls the flattened value"
    ids, halved = site.view.ids, octave_axes(site.view.roles.count("S"))
    axes: list[int] = []
    moved: list[tuple[int, int]] = []
    for shift, dim in ((s, d % site.rank) for s, d in zip(shifts, dims, strict=True)):
        role = site.view.roles[dim]
        if role == "N":
            return _BATCH
        if role == "C":
            ids = np.roll(ids, shift, site.view.roles[:dim].count("C"))
            continue
        axis = site.view.roles[:dim].count("S")
        if halved[axis] and (site.before[dim] % 2 or shift % 2):
            return "it rolls positions by less than whole blocks"
        axes.append(2 + axis)
        moved.append((shift, shift // 2 if halved[axis] else shift))

    def within(emitter: Emitter, value: Value) -> Value:
        high, low = value.high, value.low
        if high is not None:
            high = emitter.function(torch.roll, high, [full for full, _ in moved], axes)
        if low is not None:
            low = emitter.function(torch.roll, low, [half for _, half in moved], axes)
        return Value(high, low, value.mask)

    return Move(site.view.roles, ids, within if axes else None)


def _expand(site: MoveSite) -> Move | str:
    """``x.expand(*sizes)`` along channel dimensions of one."""
    if len(site.after) != site.rank:
        return "it adds a dimension before the batch"
    for role, have, length in zip(site.view.roles, site.before, site.after, strict=True):
        if role != "C" and have != length:
            return _BATCH if role == "N" else "it expands one position to many"
    return Move(site.view.roles, np.broadcast_to(site.view.ids, sizes(site.view.roles, site.after, "C")))


def _repeat(site: MoveSite) -> Move | str:
    """``x.repeat(*times)`` along channel dimensions."""
    times = _arguments(site.node, "dims" if site.node.op == "call_function" else "repeats")
    if len(times) != site.rank or not all(isinstance(n, int) for n in times):
        return "it adds a dimension before the batch" if len(times) > site.rank else _COMPUTED
    if any(n != 1 for role, n in zip(site.view.roles, times, strict=True) if role != "C"):
        return "it repeats positions or samples"
    return Move(site.view.roles, np.tile(site.view.ids, sizes(site.view.roles, times, "C")))


def _interleave(site: MoveSite) -> Move | str:
    times, dim = operand(site.node, 1, "repeats"), operand(site.node, 2, "dim")
    if not isinstance(times, int) or not isinstance(dim, int):
        return _COMPUTED
    if site.view.roles[dim] != "C":
        return "it repeats positions or samples"
    axis = site.view.roles[: dim % site.rank].count("C")
    return Move(site.view.roles, np.repeat(site.view.ids, times, axis))


def _emit_expand_as(emitter: Emitter, node: fx.Node) -> Value:
    """``x.expand_as(y)`` asks ``y`` for its shape only."""
    source, other = operand(node), operand(node, 1, "other")
    if emitter.value(source).octave:
        return emit_of(_expand)(emitter, node)
    return Value(emitter.function(Tensor.expand, emitter.dense(source), shape_of(emitter, other)))


def shape_of(emitter: Emitter, node: fx.Node) -> fx.Node | Sequence[int]:
    """The shape of a value, without merging it."""
    value, roles = emitter.value(node), emitter.roles(node)
    if not value.octave:
        return emitter.function(getattr, value.high, "shape")
    channels = sizes(roles, emitter.shape(node), "C")
    return emitter.function(view_shape, value.high, value.low, roles, channels)


def _op(name: str, rule: Any, functions: Sequence[Any], methods: Sequence[str]) -> Op:
    return Op(name, layout_of(rule), emit_of(rule), functions=functions, methods=methods, views=True)


OPS = (
    _op("flip", _flip, (torch.flip,), ("flip",)),
    _op("roll", _roll, (torch.roll,), ("roll",)),
    _op("expand", _expand, (), ("expand",)),
    _op("repeat", _repeat, (torch.tile,), ("repeat", "tile")),
    _op("repeat interleaved", _interleave, (torch.repeat_interleave,), ("repeat_interleave",)),
    Op("expand like another", layout_of(_expand), _emit_expand_as, methods=("expand_as",), views=True),
)
