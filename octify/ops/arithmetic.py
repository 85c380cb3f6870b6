"""Addition, subtraction, multiplication and division of two values.

Two octave values of the same layout combine per branch. Other operands:

* a number: per branch;
* one sample per channel (N, C, 1, 1): a gate, parted by channel;
* one channel (N, 1, H, W): a spatial gate ``s``; the low branch gets ``P(s)``, exact because
  ``P(U x * s) = x * P(s)`` and ``P(U x + s) = x + P(s)``;
* a dense map of the same size: split.

Division is exact by a number, by a per-channel value, and between octave values.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx

from octify.emitter import Emitter, Value
from octify.layout import DENSE, Ids, Mask, Refusal, Walk
from octify.nn.functional import pool
from octify.ops.base import Op, operand

# In-place forms are written out of place: a branch may be a view of a dense value others read.
_PLAIN: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    "add": torch.add,
    "add_": torch.add,
    "sub": torch.sub,
    "sub_": torch.sub,
    "mul": torch.mul,
    "mul_": torch.mul,
    "div": torch.div,
    "div_": torch.div,
}
_DIVISIONS = {operator.truediv, torch.div}


def _operands(node: fx.Node) -> tuple[Any, Any]:
    return operand(node, 0), operand(node, 1, "other")


def _rest(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Further arguments, such as ``alpha`` of ``torch.add``."""
    return node.args[2:], {key: value for key, value in node.kwargs.items() if key not in ("input", "other")}


def _aligned(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """``shape`` with leading ones up to ``rank``, as broadcasting sees it."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def _full(walk: Walk | Emitter, node: Any, out: tuple[int, ...]) -> bool:
    """Whether an operand has the result's channels and map size."""
    return isinstance(node, fx.Node) and _shape(walk, node)[1:] == out[1:]


def _shape(walk: Walk | Emitter, node: fx.Node) -> tuple[int, ...]:
    shape = walk.traced.shape(node)
    return () if shape is None else shape


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    out = walk.traced.shape(node)
    dense = walk.dense(node)
    if out is None or dense is None:
        return dense
    a, b = _operands(node)
    plain = _PLAIN.get(node.target, node.target)
    maps = [n for n in (a, b) if _full(walk, n, out)]
    rest = [n for n in (a, b) if isinstance(n, fx.Node) and n not in maps]
    if not maps:
        return _refuse_or_dense(walk, dense, [n for n in (a, b) if isinstance(n, fx.Node)])
    ids = dense
    for n in maps:
        ids = walk.couple(ids, _ids(walk, n, dense))
    for n in rest:
        verdict = _broadcast(walk, n, ids, out)
        if verdict is not None:
            return verdict
        if plain in _DIVISIONS and (n is a or not _per_channel(walk, n, out)):
            return Refusal("division by a map of another shape does not commute with pooling")
    if plain in _DIVISIONS and not isinstance(a, fx.Node):
        return ids  # number / octave: elementwise
    return ids


def _ids(walk: Walk, node: fx.Node, dense: Ids) -> Ids:
    ids = walk.ids(node)
    return dense if ids is None else ids


def _per_channel(walk: Walk | Emitter, node: fx.Node, out: tuple[int, ...]) -> bool:
    return all(n == 1 for n in _aligned(_shape(walk, node), len(out))[2:])


def _broadcast(walk: Walk, node: fx.Node, ids: Ids, out: tuple[int, ...]) -> Refusal | None:
    """Check, and couple, an operand smaller than the result."""
    shape = _aligned(_shape(walk, node), len(out))
    spatial = shape[2:]
    gate = walk.ids(node)
    if shape[1] == out[1] and all(n == 1 for n in spatial):
        if gate is not None and len(gate) == len(ids):
            both = (gate != DENSE) & (ids != DENSE)
            if both.any():
                walk.tie(gate[both], ids[both])
        return None
    if shape[1] == 1 and (spatial == out[2:] or all(n == 1 for n in spatial)):
        return None
    return Refusal("its operands broadcast along one spatial dimension")


def _refuse_or_dense(walk: Walk, dense: Ids, nodes: list[fx.Node]) -> Ids | Refusal:
    coupled = any(i is not None and bool((i != DENSE).any()) for i in map(walk.ids, nodes))
    return Refusal("its operands broadcast against each other") if coupled else dense


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    mask = emitter.mask(node)
    if mask is None:  # an operand is octave but the result is not: it was left dense
        return Value(emitter.copy(node))
    out = emitter.shape(node)
    function = _PLAIN.get(node.target, node.target)
    args, kwargs = _rest(node)
    sides = [_side(emitter, n, mask, out) for n in _operands(node)]
    (a_high, a_low), (b_high, b_low) = sides
    high = None if mask.all() else emitter.function(function, a_high, b_high, *args, **kwargs)
    return Value(high, emitter.function(function, a_low, b_low, *args, **kwargs), mask)


def _side(emitter: Emitter, node: Any, mask: Mask, out: tuple[int, ...]) -> tuple[Any, Any]:
    """What stands for an operand in the high and in the low branch."""
    if not isinstance(node, fx.Node) or emitter.traced.shape(node) in (None, ()):
        number = emitter.dense(node) if isinstance(node, fx.Node) else node
        return number, number
    if _full(emitter, node, out):
        value = emitter.as_mask(node, mask)
        return value.high, value.low
    shape = _aligned(emitter.shape(node), len(out))
    if shape[1] == 1:
        dense = emitter.dense(node)
        spatial = any(n != 1 for n in shape[2:])
        return dense, emitter.function(pool, dense) if spatial else dense
    return _parted(emitter, node, mask, len(out))


def _parted(emitter: Emitter, node: fx.Node, mask: Mask, rank: int) -> tuple[Any, Any]:
    """A per-channel operand, parted into the channels of each branch."""
    value = emitter.value(node)
    shape = emitter.shape(node)
    if len(shape) == rank:
        parted = emitter.as_mask(node, mask)
        return parted.high, parted.low
    # A parameter such as (C, 1, 1): its channels are not in dimension 1.
    assert value.high is not None
    lifted = emitter.function(torch.reshape, value.high, _aligned(shape, rank))
    branches = [_picked(emitter, node, lifted, chosen) for chosen in (~mask, mask)]
    return branches[0], branches[1]


def _picked(emitter: Emitter, node: fx.Node, lifted: fx.Node, chosen: Mask) -> fx.Node | None:
    """The chosen channels of a parameter; not by a module, which a FLOP counter could not hook."""
    if not chosen.any():
        return None
    path = f"octave_index_{node.name}_{len(emitter.modules)}"
    emitter.modules[path] = torch.from_numpy(np.flatnonzero(chosen))
    return emitter.function(torch.index_select, lifted, 1, emitter.graph.get_attr(path))


OPS = (
    Op(
        "arithmetic",
        _layout,
        _emit,
        functions=(
            operator.add,
            operator.sub,
            operator.mul,
            operator.truediv,
            operator.iadd,
            operator.isub,
            operator.imul,
            operator.itruediv,
            torch.add,
            torch.sub,
            torch.mul,
            torch.div,
        ),
        methods=("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"),
    ),
)
