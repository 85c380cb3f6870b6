"""Convolutions: they begin, end and carry octave values.

Dense -> octave uses HH and HL only, octave -> dense HH and LH only, so a convolution absorbs
the boundary for free. A depthwise convolution computes each channel from itself, so it passes
the layout on. A grouped one needs the same number of low channels in every group.
"""

from __future__ import annotations

import numpy as np
from torch import fx, nn

from octify.emitter import Emitter, Value
from octify.layout import DENSE, Ids, Refusal, Walk
from octify.nn.conv import OCTAVE_CONV
from octify.ops.base import Op, operand


def is_depthwise(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    """One input channel per group (and maybe several outputs)."""
    return conv.groups > 1 and conv.groups == conv.in_channels


def refusal_of(conv: nn.Module) -> str | None:
    """Why a convolution cannot be rewritten whatever the plan says; None when it can."""
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    padded = any(conv._reversed_padding_repeated_twice)
    if conv.padding_mode != "zeros" and padded:
        return f"{conv.padding_mode} padding does not commute with pooling"
    if conv._forward_hooks or conv._forward_pre_hooks:
        return "it has forward hooks, which a rewritten convolution would lose"
    return None


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    conv = walk.module(node)
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    source = operand(node)
    assert isinstance(source, fx.Node)
    ids = walk.ids(source)
    path = str(node.target)
    reason = walk.untouched.get(path) or walk.tied.get(path) or refusal_of(conv)
    if ids is None or len(walk.shape(node)) != len(conv.kernel_size) + 2:
        reason = reason or "its input has no batch dimension"
    if reason is not None or ids is None:
        return Refusal(reason or "")
    if is_depthwise(conv):
        if path in walk.dense_outputs:
            return Refusal("its output is kept dense")
        out = np.repeat(ids, conv.out_channels // conv.groups)
        walk.conv(node, ids, out)
        return out
    if conv.groups > 1:
        walk.demand_even(node, ids, conv.groups)
    if path in walk.dense_outputs:
        return walk.conv(node, ids, np.full(conv.out_channels, DENSE))
    earlier = walk.shared_output(node)
    out = walk.fresh(conv.out_channels) if earlier is None else earlier
    if conv.groups > 1:
        walk.demand_even(node, out, conv.groups)
    return walk.conv(node, ids, out)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    path = str(node.target)
    planned = emitter.plan.conv(path)
    conv = emitter.module(node)
    source = operand(node)
    assert isinstance(source, fx.Node)
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    if not planned.low_in and not planned.low_out:
        return Value(emitter.copy(node))
    wanted = np.zeros(conv.in_channels, dtype=bool)
    wanted[list(planned.low_in)] = True
    x = emitter.as_mask(source, wanted if planned.low_in else None)
    made = emitter.modules.get(path)
    if made is None:
        kind = OCTAVE_CONV[len(conv.kernel_size)]
        made = kind.from_conv(conv, planned.low_in, planned.low_out, planned.kernels)
    return emitter.pair(emitter.call(path, made, x.high, x.low), emitter.mask(node))


OPS = (Op("convolution", _layout, _emit, modules=(nn.Conv1d, nn.Conv2d, nn.Conv3d)),)
