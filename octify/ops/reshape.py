"""Reshaping that splits, joins, adds and drops channel dimensions: it moves no channel.

``view``, ``reshape``, ``flatten``, ``unflatten``, ``squeeze`` and ``unsqueeze`` keep row-major order,
so the branches stay as they are and only the roles of the dimensions change. Sizes are those at
the example inputs, whatever the code computes them from. Joining positions with each other or
with channels is a boundary, and so is anything that touches the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from octify.layout.roles import regrouped, sizes
from octify.ops.base import Op, operand
from octify.ops.channel_moves import Move, MoveRule, MoveSite, emit_of, layout_of
from octify.ops.emitter import Emitter, Value
from octify.ops.rearrange import shape_of

_BATCH = "it mixes the batch with other dimensions"


def _regroup(site: MoveSite) -> Move | str:
    if site.after[:1] != site.before[:1]:
        return _BATCH
    if site.view.roles.count("S") == 1 and site.view.ids.size == 1:
        # As channel attention by a convolution along channels makes it: no map, and nothing to halve.
        return "it reads one sequence as something else"
    roles = regrouped(site.view.roles, site.before, site.after)
    if roles is None:
        return "it joins or splits positions of the map"
    return Move(roles, site.view.ids.reshape(sizes(roles, site.after, "C")))


def _reshape(site: MoveSite) -> Move | str:
    """``x.view(*sizes)`` and ``reshape``, with sizes as arguments, as a tuple or as a shape."""
    first = operand(site.node, 1, "size" if site.node.target == "view" else "shape")
    if isinstance(first, torch.dtype) or "dtype" in site.node.kwargs:
        return "it reads the same bytes as another type"
    if isinstance(first, (tuple, list)):
        first = first[0] if first else None
    # In a batch of one, a 1 in the code may stand for the batch or be 1 whatever the batch is.
    return _BATCH if site.before[0] == 1 and first == 1 else _regroup(site)


def _beyond_batch(name: str, default: int | None, longer: int = 0) -> MoveRule:
    """A rule for an operation on dimensions given by its first argument, which may not be the batch.

    ``longer``: how many more dimensions than the operand has a negative dimension counts from.
    """

    def rule(site: MoveSite) -> Move | str:
        argument = operand(site.node, 1, name)
        dims = default if argument is None else argument
        rank = site.rank + longer
        for dim in dims if isinstance(dims, (tuple, list)) else (dims,):
            if not isinstance(dim, int) or dim % rank == 0:
                return _BATCH
        return _regroup(site)

    return rule


def _emit_as_other(emitter: Emitter, node: fx.Node) -> Value:
    """``x.view_as(y)`` asks ``y`` for its shape only."""
    source, other = operand(node), operand(node, 1, "other")
    if emitter.value(source).octave:
        return emit_of(_regroup)(emitter, node)
    return Value(emitter.function(torch.reshape, emitter.dense(source), shape_of(emitter, other)))


_flatten = _beyond_batch("start_dim", 0)
_unflatten = _beyond_batch("dim", None)
_squeeze = _beyond_batch("dim", 0)
_unsqueeze = _beyond_batch("dim", None, 1)

OPS = (
    Op(
        "reshape",
        layout_of(_reshape),
        emit_of(_reshape),
        functions=(torch.reshape,),
        methods=("view", "reshape"),
        views=True,
    ),
    Op(
        "flatten",
        layout_of(_flatten),
        emit_of(_flatten),
        functions=(torch.flatten,),
        methods=("flatten",),
        views=True,
    ),
    Op(
        "flatten module",
        layout_of(_regroup),
        emit_of(_regroup),
        modules=(nn.Flatten, nn.Unflatten),
        views=True,
    ),
    Op(
        "unflatten",
        layout_of(_unflatten),
        emit_of(_unflatten),
        functions=(torch.unflatten, Tensor.unflatten),
        methods=("unflatten",),
        views=True,
    ),
    Op(
        "squeeze",
        layout_of(_squeeze),
        emit_of(_squeeze),
        functions=(torch.squeeze,),
        methods=("squeeze",),
        views=True,
    ),
    Op(
        "unsqueeze",
        layout_of(_unsqueeze),
        emit_of(_unsqueeze),
        functions=(torch.unsqueeze,),
        methods=("unsqueeze",),
        views=True,
    ),
    Op(
        "reshape like another",
        layout_of(_regroup),
        _emit_as_other,
        methods=("view_as", "reshape_as"),
        views=True,
    ),
)
