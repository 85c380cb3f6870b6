"""Attention modules of other libraries that have an octave form as a whole."""

from __future__ import annotations

from torch import fx

from octify.layout.channels import Ids, Refusal, indices
from octify.nn.global_context import OctaveGlobalContext
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk
from octify.trace.vendors import GLOBAL_CONTEXTS


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = walk.ids(operand(node))
    path = str(node.target)
    reason = walk.untouched.get(path) or walk.read.get(path)
    if reason is not None:
        return Refusal(reason)
    if ids is not None:
        walk.shared_input(node, ids)
    return ids


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    path = str(node.target)
    x = emitter.value(operand(node))
    assert x.mask is not None
    layer = emitter.modules.get(path)
    if layer is None:
        low = indices(x.mask)
        layer = OctaveGlobalContext(emitter.module(node), len(x.mask), low)
    return emitter.pair(emitter.call(path, layer, x.high, x.low), x.mask)


OPS = (Op("global context", _layout, _emit, modules=GLOBAL_CONTEXTS),)
