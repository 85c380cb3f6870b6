"""Nearest-neighbour upsampling by a whole factor: it commutes with ``U``, so per branch."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from octify.emitter import Emitter, Value
from octify.layout import DENSE, Ids, Refusal, Walk
from octify.nn.functional import low_upsample_nearest, upsample_nearest
from octify.ops.base import Op, operand


def _mode(walk: Walk | Emitter, node: fx.Node) -> Any:
    module = walk.traced.submodule(node)
    mode = module.mode if isinstance(module, nn.Upsample) else operand(node, 3, "mode")
    return "nearest" if mode is None else mode


def _factors(walk: Walk | Emitter, node: fx.Node) -> list[int] | None:
    """Whole factors from input to output size; None if there are none."""
    before, after = walk.traced.shape(operand(node)), walk.traced.shape(node)
    if before is None or after is None:
        return None
    pairs = list(zip(before[2:], after[2:], strict=True))
    return [b // a for a, b in pairs] if all(b % a == 0 for a, b in pairs) else None


def _computed_size(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(operand(node, 1, "size"), fx.Node)


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = walk.ids(operand(node))
    if ids is None or not bool((ids != DENSE).any()):
        return walk.dense(node)
    if _mode(walk, node) not in ("nearest", "nearest-exact"):
        return Refusal(f"{_mode(walk, node)} interpolation mixes neighbouring blocks")
    if _factors(walk, node) is None:
        return Refusal("it resizes by a factor that is not whole")
    return ids


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    x = emitter.value(operand(node))
    factors = _factors(emitter, node)
    high = None if x.high is None else emitter.function(upsample_nearest, x.high, factors)
    return Value(high, emitter.function(low_upsample_nearest, x.low, x.high, factors), x.mask)


OPS = (
    Op(
        "nearest upsampling",
        _layout,
        _emit,
        modules=(nn.Upsample, nn.UpsamplingNearest2d),
        functions=(F.interpolate, F.upsample),
    ),
)
