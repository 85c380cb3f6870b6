"""Transposed convolutions: like convolutions, they begin, end and carry octave values."""

from __future__ import annotations

import numpy as np
from torch import fx, nn

from octify.compat import forward_hooks, forward_pre_hooks
from octify.layout.channels import Ids, Refusal
from octify.nn.conv_transpose import OCTAVE_CONV_TRANSPOSE
from octify.ops.base import Op, operand
from octify.ops.conv import convolved_ids
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    conv = walk.module(node)
    assert isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    source = operand(node)
    ids = walk.ids(source)
    path = str(node.target)
    reason = walk.untouched.get(path) or walk.read.get(path)
    if ids is None or len(walk.shape(node)) != len(conv.kernel_size) + 2:
        reason = reason or "its input has no batch dimension"
    if operand(node, 1, "output_size") is not None:
        reason = reason or "it is called with the size of its output"
    if forward_hooks(conv) or forward_pre_hooks(conv):
        reason = reason or "it has forward hooks, which a rewritten convolution would lose"
    if reason is not None or ids is None:
        return Refusal(reason or "")
    return convolved_ids(walk, node, ids)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    path = str(node.target)
    planned = emitter.plan.conv(path)
    conv = emitter.module(node)
    assert isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    if not planned.low_in and not planned.low_out:
        return Value(emitter.copy(node))
    mask = np.zeros(conv.in_channels, dtype=bool)
    mask[list(planned.low_in)] = True
    x = emitter.as_mask(operand(node), mask if planned.low_in else None)
    layer = emitter.modules.get(path)
    if layer is None:
        kind = OCTAVE_CONV_TRANSPOSE[len(conv.kernel_size)]
        layer = kind.from_conv(conv, planned.low_in, planned.low_out, planned.kernels)
    return emitter.pair(emitter.call(path, layer, x.high, x.low), emitter.mask(node))


OPS = (
    Op(
        "transposed convolution",
        _layout,
        _emit,
        modules=(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    ),
)
