"""BatchNorm and other layers with one statistic or weight per channel.

In eval mode BatchNorm is an affine map per channel, which commutes with pooling and with
upsampling: each branch gets a module with its channels' parameters.
"""

from __future__ import annotations

import numpy as np
from torch import fx, nn

from octify.emitter import Emitter, Value
from octify.layout import Ids, Refusal, Walk
from octify.nn.norm import OctaveBatchNorm2d, OctaveChannelwise
from octify.ops.base import Op, operand


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = walk.ids(operand(node))
    path = str(node.target)
    reason = walk.untouched.get(path) or walk.tied.get(path)
    if reason is not None:
        return Refusal(reason)
    if ids is not None:
        walk.shared_input(node, ids)
    return ids


def emit_channelwise(emitter: Emitter, node: fx.Node, kind: type[OctaveChannelwise]) -> Value:
    """One copy of the module for each branch, under its own path."""
    path = str(node.target)
    x = emitter.value(operand(node))
    assert x.mask is not None
    made = emitter.modules.get(path)
    if made is None:
        low = [int(c) for c in np.flatnonzero(x.mask)]
        made = kind.from_module(emitter.module(node), len(x.mask), low)
    return emitter.pair(emitter.call(path, made, x.high, x.low), x.mask)


def _emit_norm(emitter: Emitter, node: fx.Node) -> Value:
    return emit_channelwise(emitter, node, OctaveBatchNorm2d)


def _layout_prelu(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    prelu = walk.module(node)
    assert isinstance(prelu, nn.PReLU)
    return walk.ids(operand(node)) if prelu.num_parameters == 1 else _layout(walk, node)


def _emit_prelu(emitter: Emitter, node: fx.Node) -> Value:
    prelu = emitter.module(node)
    assert isinstance(prelu, nn.PReLU)
    if prelu.num_parameters == 1:
        return emitter.per_branch(node, operand(node))
    return emit_channelwise(emitter, node, OctaveChannelwise)


OPS = (
    Op(
        "BatchNorm",
        _layout,
        _emit_norm,
        modules=(
            nn.BatchNorm1d,
            nn.BatchNorm2d,
            nn.BatchNorm3d,
            nn.SyncBatchNorm,
            # With their activation and dropout inside; both are elementwise.
            "timm.layers.norm_act.BatchNormAct2d",
            "timm.layers.norm_act.SyncBatchNormAct",
            "timm.layers.norm_act.FrozenBatchNormAct2d",
            "torchvision.ops.misc.FrozenBatchNorm2d",
        ),
    ),
    Op("PReLU", _layout_prelu, _emit_prelu, modules=(nn.PReLU,)),
)
