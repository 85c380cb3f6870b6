"""Chunk, split and unbind: one value becomes several, each a part of the channels of each branch."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx

from octify.layout.channels import Ids, Refusal
from octify.layout.roles import View
from octify.ops.base import Op, operand
from octify.ops.channel_moves import taken
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

_NAMES = {"chunk": "chunks", "split": "split_size_or_sections", "tensor_split": "indices_or_sections"}


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _stops(name: str, sections: Any, size: int) -> list[int] | None:
    """Ends of the parts of ``size`` channels; None where they are computed."""
    if isinstance(sections, (list, tuple)):
        if not all(isinstance(n, int) for n in sections):
            return None
        return [*sections, size] if name == "tensor_split" else [int(n) for n in np.cumsum(sections)]
    if not isinstance(sections, int):
        return None
    if name == "tensor_split":
        each, longer = divmod(size, sections)
        return [int(n) for n in np.cumsum([each + (part < longer) for part in range(sections)])]
    each = -(-size // sections) if name == "chunk" else sections
    return [min(start + each, size) for start in range(0, size, each)]


def _parted(node: fx.Node, roles: str, ids: Ids) -> list[View] | str:
    """The parts of a view with ``ids``, or why it must be dense."""
    name = _name(node)
    dim = operand(node, 1 if name == "unbind" else 2, "dim")
    dim = 0 if dim is None else dim
    if not isinstance(dim, int) or roles[dim] != "C":
        return "it splits along another dimension than channels"
    dim %= len(roles)
    axis = roles[:dim].count("C")
    if not all(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users):
        return "its parts are used together"
    if name == "unbind":
        kept = roles[:dim] + roles[dim + 1 :]
        return [View(kept, np.take(ids, i, axis)) for i in range(ids.shape[axis])]
    sections = operand(node, 1, _NAMES[name])
    if sections is None:
        sections = node.kwargs.get("split_size", node.kwargs.get("sections", node.kwargs.get("indices")))
    stops = _stops(name, sections, ids.shape[axis])
    if stops is None:
        return "it splits at computed places"
    return [View(roles, part) for part in np.split(ids, stops, axis)[: len(stops)]]


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    view = walk.view(operand(node))
    if view is None:
        return None
    parts = _parted(node, view.roles, view.ids)
    if isinstance(parts, str):
        return Refusal(parts) if walk.coupled(operand(node)) else None
    walk.set_parts(node, parts)
    return None


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    source = operand(node)
    value, roles = emitter.value(source), emitter.roles(source)
    channels = tuple(n for role, n in zip(roles, emitter.shape(source), strict=True) if role == "C")
    assert value.mask is not None
    parts = _parted(node, roles, np.arange(len(value.mask)).reshape(channels))
    assert not isinstance(parts, str)
    # As maps; each is given its dimensions where it is taken out.
    emitter.parts[node.name] = [taken(emitter, value, part.flat) for part in parts]
    return Value(None)


OPS = (
    Op(
        "channel parts",
        _layout,
        _emit,
        functions=(torch.chunk, torch.split, torch.functional.split, torch.tensor_split, torch.unbind),
        methods=("chunk", "split", "tensor_split", "unbind"),
        views=True,
    ),
)
