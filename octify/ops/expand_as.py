"""Gates that a model spreads over the map before it multiplies: ``y.expand_as(x)``.

The result takes the layout of ``x``, and each branch spreads its part of ``y`` over its own size,
pooled first where ``y`` differs inside a block. The product with ``x`` then needs no boundary.
"""

from __future__ import annotations

from torch import Tensor, fx

from octify.layout.channels import DENSE, Ids, Refusal
from octify.ops.arithmetic import side
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk


def _alike(walk: Walk | Emitter, gate: fx.Node, like: fx.Node) -> bool:
    """Return whether there is nothing to spread, at any input size."""
    return walk.traced.shapes(gate) == walk.traced.shapes(like)


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    gate, like = operand(node), operand(node, 1, "other")
    ids, own = walk.ids(like), walk.ids(gate)
    if ids is None:
        return walk.dense(node)
    small, large = walk.shape(gate), walk.shape(like)
    if own is None or len(small) != len(large) or small[1] != large[1]:
        return ids
    if _alike(walk, gate, like):
        return own
    both = (ids != DENSE) & (own != DENSE)
    if both.any():
        walk.tie(ids[both], own[both])
    return ids


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    gate, like = operand(node), operand(node, 1, "other")
    mask = emitter.mask(node)
    if mask is None:
        return Value(emitter.copy(node))
    if _alike(emitter, gate, like):
        return emitter.as_mask(gate, mask)
    high, low = side(emitter, gate, mask, emitter.roles(node))
    whole = emitter.as_mask(like, mask)
    return Value(
        None if whole.high is None else emitter.function(Tensor.expand_as, high, whole.high),
        emitter.function(Tensor.expand_as, low, whole.low),
        mask,
    )


OPS = (Op("spread gate", _layout, _emit, functions=(Tensor.expand_as,), methods=("expand_as",)),)
