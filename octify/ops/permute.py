"""Permuting dimensions: channels change their order, spatial dimensions only their place.

A channel shuffle is a permutation of channel dimensions between two reshapes: each branch is
put in its new order, if that is another one. Channels-last is a permutation that costs nothing,
because branches stay maps (N, channels, *size). Exchanging height and width commutes with ``P``
and ``U``, so it is done on each branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from octify.layout.roles import View
from octify.ops.base import Op, operand
from octify.ops.channel_moves import Move, MoveRule, MoveSite, emit_of, layout_of
from octify.ops.emitter import Emitter, Value

_COMPUTED = "its dimensions are computed"


def _permuted(order: Sequence[int], view: View) -> Move | str:
    """The move that puts dimension ``order[i]`` at place i."""
    if order[0] != 0:
        return "it moves the batch dimension"
    roles = view.roles
    spatial = [dim for dim in order if roles[dim] == "S"]
    exchanged = spatial != sorted(spatial)
    if exchanged and len(spatial) != 2:
        return "it exchanges axes of which only some are halved"
    axes = [roles[:dim].count("C") for dim in order if roles[dim] == "C"]
    new_roles = "".join(roles[dim] for dim in order)
    return Move(new_roles, view.ids.transpose(axes), _exchange_axes if exchanged else None)


def _exchange_axes(emitter: Emitter, value: Value) -> Value:
    return value.each(lambda branch: emitter.function(torch.transpose, branch, 2, 3))


def _permute(site: MoveSite) -> Move | str:
    dims: Any = operand(site.node, 1, "dims")
    if not isinstance(dims, (tuple, list)):
        dims = site.node.args[1:]
    if len(dims) != site.rank or not all(isinstance(d, int) for d in dims):
        return _COMPUTED
    return _permuted([d % site.rank for d in dims], site.view)


def _exchange(first: str, second: str) -> MoveRule:
    def rule(site: MoveSite) -> Move | str:
        a, b = operand(site.node, 1, first), operand(site.node, 2, second)
        if not isinstance(a, int) or not isinstance(b, int):
            return _COMPUTED
        order = list(range(site.rank))
        order[a], order[b] = order[b], order[a]
        return _permuted(order, site.view)

    return rule


def _movedim(site: MoveSite) -> Move | str:
    source, target = operand(site.node, 1, "source"), operand(site.node, 2, "destination")
    sources, targets = np.atleast_1d(source), np.atleast_1d(target)
    if sources.dtype.kind != "i" or targets.dtype.kind != "i":
        return _COMPUTED
    moved = {int(t) % site.rank: int(s) % site.rank for s, t in zip(sources, targets, strict=True)}
    rest = iter(d for d in range(site.rank) if d not in moved.values())
    order = [moved[place] if place in moved else next(rest) for place in range(site.rank)]
    return _permuted(order, site.view)


def _shuffle(site: MoveSite) -> Move | str:
    """``nn.ChannelShuffle``: (N, groups * c, *size) as (groups, c) channels, transposed."""
    groups = (
        site.module.groups if isinstance(site.module, nn.ChannelShuffle) else operand(site.node, 1, "groups")
    )
    if site.view.roles[1] != "C" or site.view.ids.ndim != 1 or not isinstance(groups, int):
        return "its channels are not in dimension 1"
    return Move(site.view.roles, site.view.ids.reshape(groups, -1).T.ravel())


_transpose = _exchange("dim0", "dim1")
_swapaxes = _exchange("axis0", "axis1")

OPS = (
    Op(
        "permute",
        layout_of(_permute),
        emit_of(_permute),
        functions=(torch.permute,),
        methods=("permute",),
        views=True,
    ),
    Op(
        "transpose",
        layout_of(_transpose),
        emit_of(_transpose),
        functions=(torch.transpose, torch.swapdims),
        methods=("transpose", "swapdims"),
        views=True,
    ),
    Op(
        "swapaxes",
        layout_of(_swapaxes),
        emit_of(_swapaxes),
        functions=(torch.swapaxes,),
        methods=("swapaxes",),
        views=True,
    ),
    Op(
        "movedim",
        layout_of(_movedim),
        emit_of(_movedim),
        functions=(torch.movedim, torch.moveaxis),
        methods=("movedim", "moveaxis"),
        views=True,
    ),
    Op(
        "channel shuffle",
        layout_of(_shuffle),
        emit_of(_shuffle),
        modules=(nn.ChannelShuffle,),
        functions=(torch.channel_shuffle, torch.native_channel_shuffle),
        views=True,
    ),
)
