"""Concatenation along channels: the branches are concatenated, low channels keep their offsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from octify.emitter import Emitter, Value
from octify.layout import DENSE, Ids, Refusal, Walk
from octify.ops.base import Op, operand


def _tensors(node: fx.Node) -> list[Any]:
    return list(operand(node, 0, "tensors"))


def _dim(node: fx.Node) -> Any:
    dim = operand(node, 1, "dim")
    return 0 if dim is None else dim


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    dense = walk.dense(node)
    tensors = _tensors(node)
    ids = [walk.ids(n) if isinstance(n, fx.Node) else None for n in tensors]
    if dense is None or any(i is None for i in ids):
        return dense
    rank = len(walk.shape(node))
    if _dim(node) in (1, 1 - rank):
        return np.concatenate([i for i in ids if i is not None])
    coupled = any(i is not None and bool((i != DENSE).any()) for i in ids)
    return Refusal("it concatenates along another dimension than channels") if coupled else dense


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    mask = emitter.mask(node)
    if mask is None:
        return Value(emitter.copy(node))
    values = [emitter.value(n) for n in _tensors(node)]
    highs = [v.high for v in values if v.high is not None]
    lows = [v.low for v in values if v.low is not None]
    return Value(_joined(emitter, highs), _joined(emitter, lows), mask)


def _joined(emitter: Emitter, nodes: list[fx.Node]) -> fx.Node | None:
    if len(nodes) < 2:
        return nodes[0] if nodes else None
    return emitter.function(torch.cat, nodes, 1)


OPS = (Op("concatenation", _layout, _emit, functions=(torch.cat, torch.concat, torch.concatenate)),)
