"""Moving channels about: what reshaping, permuting, slicing and shuffling have in common.

Such an operation computes nothing: every channel of its result is some channel of its operand.
Its rule gives the roles of the result's dimensions and the array of where each channel comes
from. A branch is then a selection of the operand's branch, and mostly the whole of it: reshaping
does not change the order of the channels, and a permutation that moves spatial dimensions to
another place does not either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn

from octify.layout.channels import Ids, Refusal
from octify.layout.roles import View, sizes
from octify.nn.channels import Gather
from octify.ops.base import EmitRule, LayoutRule, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk


@dataclass(frozen=True, eq=False)
class Move:
    """Roles of the result, and the operand's channel that each of its channels is.

    within:
        Further operation on the branches: a move of positions that commutes with ``P`` and ``U``.
    """

    roles: str
    source: Ids
    within: Callable[[Emitter, Value], Value] | None = None


@dataclass(frozen=True, eq=False)
class MoveSite:
    """Site of a move: the node, its module if it calls one, and its inputs and outputs.

    view:
        Roles of the operand's dimensions, with the channels' own numbers for ids.
    """

    node: fx.Node
    module: nn.Module | None
    view: View
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Dimensions of the operand."""
        return len(self.before)


OF_A_SIZE = "it moves channels and positions otherwise at another input size"

MoveRule = Callable[[MoveSite], Move | str]
"""A move, or why the operand must be dense."""


def site_of(
    walk: Walk | Emitter, node: fx.Node, roles: str, before: tuple[int, ...], after: tuple[int, ...]
) -> MoveSite:
    """A value of shape ``before`` and what ``node`` makes of it."""
    channels = sizes(roles, before, "C")
    numbers = np.arange(np.prod(channels, dtype=np.int64)).reshape(channels)
    return MoveSite(node, walk.traced.submodule(node), View(roles, numbers), before, after)


def layout_of(rule: MoveRule) -> LayoutRule:
    """The layout rule of a move: ids go where the channels go."""

    def layout(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
        source = operand(node)
        view, after = walk.view(source), walk.traced.shape(node)
        if view is None or after is None:
            return walk.dense(node)
        before = walk.shape(source)
        move = rule(site_of(walk, node, view.roles, before, after))
        if (
            not isinstance(move, str)
            and walk.coupled(source)
            and not _holds_elsewhere(walk, node, view, move)
        ):
            move = OF_A_SIZE
        if isinstance(move, str):
            return Refusal(move) if walk.coupled(source) else walk.dense(node)
        return View(move.roles, view.flat[move.source])

    return layout


def _holds_elsewhere(walk: Walk, node: fx.Node, view: View, move: Move) -> bool:
    """Return whether a move leads to the shape that ``node`` gives larger inputs, too."""
    before, after = walk.traced.shapes(operand(node)), walk.traced.shapes(node)
    if len(before) < 2 or len(after) < 2:
        return True
    for roles, shapes in ((view.roles, before), (move.roles, after)):
        if {len(shape) for shape in shapes} != {len(roles)}:
            return False
        if len({sizes(roles, shape, "C") for shape in shapes}) > 1:
            return False
    if move.within is not None:  # positions are meant to become others
        return True
    return sizes(view.roles, before[1], "S") == sizes(move.roles, after[1], "S")


def emit_of(rule: MoveRule) -> EmitRule:
    """The rewrite of a move."""

    def emit(emitter: Emitter, node: fx.Node) -> Value:
        source = operand(node)
        value, before = emitter.value(source), emitter.shape(source)
        if value.mask is None:
            return Value(emitter.copy(node))
        move = rule(site_of(emitter, node, emitter.roles(source), before, emitter.shape(node)))
        assert not isinstance(move, str)
        moved = taken(emitter, value, move.source.ravel())
        return emitter.spread(node, moved if move.within is None else move.within(emitter, moved))

    return emit


def taken(emitter: Emitter, value: Value, source: Ids) -> Value:
    """The channels ``source`` of an octave value, in that order and possibly repeated.

    Without low channels among them the result has only a high branch: a dense map.
    """
    assert value.mask is not None
    low = value.mask[source]
    place = np.where(value.mask, np.cumsum(value.mask), np.cumsum(~value.mask)) - 1
    high = _selected(emitter, value.high, place[source[~low]], int((~value.mask).sum()))
    if not low.any():
        return Value(high)
    return Value(high, _selected(emitter, value.low, place[source[low]], int(value.mask.sum())), low)


def _selected(emitter: Emitter, branch: fx.Node | None, places: Ids, channels: int) -> fx.Node | None:
    """Channels of a branch: all of it for free, a range as a view, anything else by index."""
    if branch is None or not len(places):
        return None
    first, count = int(places[0]), len(places)
    if np.array_equal(places, np.arange(first, first + count)):
        return branch if count == channels else emitter.function(torch.narrow, branch, 1, first, count)
    return emitter.call(f"octave_order_{len(emitter.modules)}", Gather(places.tolist(), channels), branch)
