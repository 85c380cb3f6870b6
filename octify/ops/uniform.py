"""Tensors of one value: ``torch.zeros(batch, 8, h, w)``, ``x.new_ones(...)``, ``torch.full(...)``.

The first state of a recurrent cell, or the map that a model fills part by part. ``P`` of a constant is that
constant, so each of its channels may be low or high: they get ids of their own, and are low where the graph
ties them to low ones. The branches are views of the tensor.
"""

from __future__ import annotations

from operator import getitem

import torch
from torch import Tensor, fx

from octify.layout.channels import Ids
from octify.nn.functional import octave_axes
from octify.ops.base import Op
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

_FUNCTIONS = (torch.zeros, torch.ones, torch.full, torch.empty)
_METHODS = ("new_zeros", "new_ones", "new_full", "new_empty")


def _layout(walk: Walk, node: fx.Node) -> Ids | None:
    shapes = walk.traced.shapes(node)
    is_map = all(3 <= len(shape) <= 5 for shape in shapes) and len({shape[1:2] for shape in shapes}) == 1
    return walk.free(shapes[0][1]) if is_map else walk.dense(node)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    whole = emitter.copy(node, lambda n: emitter.any_branch(n))  # a method asks its tensor for the type alone
    mask = emitter.mask(node)
    if mask is None:
        return Value(whole)
    count, low = len(mask), int(mask.sum())
    every_second = [
        slice(None, None, 2 if half else None) for half in octave_axes(len(emitter.shape(node)) - 2)
    ]
    high = None if low == count else emitter.function(torch.narrow, whole, 1, 0, count - low)
    index = (slice(None), slice(0, low), *every_second)
    return Value(high, emitter.function(getitem, whole, index), mask)


OPS = (
    Op(
        "uniform tensor",
        _layout,
        _emit,
        functions=(*_FUNCTIONS, *(getattr(Tensor, name) for name in _METHODS)),
        methods=_METHODS,
    ),
)
