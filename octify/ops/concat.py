"""Concatenating and stacking: the branches are concatenated along their channels.

Low channels keep their places in each operand. Where the operands are joined along anything but
the first of several channel dimensions, the channels of each branch are put in their new order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from octify.layout.channels import DENSE, Ids, Refusal
from octify.layout.roles import View, map_shape, sizes, standard_roles
from octify.ops.base import Op, operand
from octify.ops.channel_moves import taken
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk


def _tensors(node: fx.Node) -> list[Any]:
    """The operands; none where one node yields them all (its parts, used together, are dense)."""
    tensors = operand(node, 0, "tensors")
    return [] if isinstance(tensors, fx.Node) else list(tensors)


def _dim(node: fx.Node) -> Any:
    for name in ("dim", "axis"):
        dim = operand(node, 1, name)
        if dim is not None:
            return dim
    return 0


def _stacks(node: fx.Node) -> bool:
    return node.target is torch.stack


def _roles(walk: Walk, node: fx.Node) -> str | None:
    """The roles that all operands with low channels have; None if they differ."""
    tensors = [n for n in _tensors(node) if isinstance(n, fx.Node)]
    views = [view for n in tensors if (view := walk.view(n)) is not None]
    low = walk.deciding([view for view in views if bool((view.ids != DENSE).any())])
    candidates = {view.roles for view in low} or {view.roles for view in views}
    return candidates.pop() if len(candidates) == 1 else None


def _joined(node: fx.Node, roles: str, ids: list[Ids]) -> View | str:
    """The ids of the operands joined along the node's dimension, or why that cannot be."""
    dim = _dim(node)
    if not isinstance(dim, int):
        return "it joins along a computed dimension"
    stacks = _stacks(node)
    dim %= len(roles) + stacks
    if stacks:
        if dim == 0:
            return "it adds a dimension before the batch"
        axis = roles[:dim].count("C")
        return View(f"{roles[:dim]}C{roles[dim:]}", np.stack(ids, axis))
    if roles[dim] != "C":
        return "it concatenates along another dimension than channels"
    return View(roles, np.concatenate(ids, roles[:dim].count("C")))


def _layout(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    dense, tensors = walk.dense(node), _tensors(node)
    if dense is None or not all(isinstance(n, fx.Node) and walk.view(n) is not None for n in tensors):
        coupled = any(isinstance(n, fx.Node) and walk.coupled(n) for n in tensors)
        return Refusal("it joins the value with one of unknown layout") if coupled else dense
    roles = _roles(walk, node)
    result: View | str = "its operands have their channels in different dimensions"
    if roles is not None:
        result = _joined(node, roles, [_ids(walk, n, roles) for n in tensors])
    if isinstance(result, str):
        return Refusal(result) if any(map(walk.coupled, tensors)) else dense
    return result


def _ids(walk: Walk, node: fx.Node, roles: str) -> Ids:
    view = walk.view(node)
    assert view is not None
    # A dense value is taken to have the roles of the others.
    return view.ids if view.roles == roles else np.full(sizes(roles, walk.shape(node), "C"), DENSE)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    if emitter.mask(node) is None:
        return Value(emitter.copy(node))
    tensors = _tensors(node)
    octave = [n for n in tensors if emitter.value(n).octave]
    roles = emitter.roles(octave[0]) if octave else standard_roles(len(emitter.shape(tensors[0])))
    values, numbers, count = [], [], 0
    for n in tensors:
        value = emitter.value(n)
        values.append(value if value.octave else Value(emitter.as_map(n, roles)))
        channels = sizes(roles, emitter.shape(n), "C")
        total = map_shape(roles, emitter.shape(n))[1]
        numbers.append(count + np.arange(total).reshape(channels))
        count += total
    masks = [
        np.zeros(n.size, bool) if v.mask is None else v.mask for v, n in zip(values, numbers, strict=True)
    ]
    whole = Value(
        _concatenated(emitter, [v.high for v in values if v.high is not None]),
        _concatenated(emitter, [v.low for v in values if v.low is not None]),
        np.concatenate(masks),
    )
    view = _joined(node, roles, numbers)
    assert not isinstance(view, str)
    return taken(emitter, whole, view.flat)


def _concatenated(emitter: Emitter, nodes: list[fx.Node]) -> fx.Node | None:
    if len(nodes) < 2:
        return nodes[0] if nodes else None
    return emitter.function(torch.cat, nodes, 1)


OPS = (
    Op(
        "concatenation",
        _layout,
        _emit,
        functions=(torch.cat, torch.concat, torch.concatenate, torch.stack),
        views=True,
    ),
)
