"""BatchNorm and other layers that treat every channel by itself.

In eval mode BatchNorm is an affine map per channel, which commutes with pooling and with
upsampling: each branch gets a module with its channels' parameters. So do norms that take a
statistic of each channel over all positions, for ``mean(f(U x)) = mean(f(x))``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import fx, nn

from octify.layout.channels import Ids, Refusal, indices
from octify.layout.roles import View
from octify.nn.norm import OctaveBatchNorm2d, OctaveChannelwise, OctavePositionNorm
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk
from octify.trace.vendors import BATCH_NORMS, POSITION_NORMS


def layout_norm(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    """Channels pass through; a module called at several places has one layout."""
    ids = walk.ids(operand(node))
    path = str(node.target)
    reason = walk.untouched.get(path) or walk.read.get(path) or _other_rank(walk, node)
    if reason is not None:
        return Refusal(reason)
    if ids is not None:
        walk.shared_input(node, ids)
    return ids


def _other_rank(walk: Walk, node: fx.Node) -> str | None:
    """Why a layer for maps of so many axes (``...2d``) takes its input for something else, if it does.

    An InstanceNorm2d takes three dimensions for one image without a batch; layers that shape their weights
    as (1, C, 1, 1) spread them over a sequence.
    """
    matches = (re.search(r"([123])d", kind.__name__) for kind in type(walk.module(node)).__mro__)
    axes = next((int(match[1]) for match in matches if match), None)
    rank = len(walk.shape(operand(node)))
    return None if axes in (None, rank - 2) else f"its input has {rank} dimensions, not {(axes or 0) + 2}"


def layout_view(walk: Walk, node: fx.Node, reason: str | None) -> Ids | View | Refusal | None:
    """Like ``layout_norm``, for channels in any dimension; ``reason`` says why it does not fit them."""
    source, path = operand(node), str(node.target)
    view = walk.view(source)
    reason = reason or walk.untouched.get(path) or walk.read.get(path)
    if view is None or reason is not None:
        return Refusal(reason) if reason is not None and walk.coupled(source) else walk.dense(node)
    walk.shared_input(node, view.flat)
    return view


def emit_module(
    emitter: Emitter, node: fx.Node, make: Callable[[nn.Module, int, Sequence[int]], nn.Module]
) -> Value:
    """An octave module in the original's place: ``make(original, channels, low)``, once for all its calls."""
    path = str(node.target)
    x = emitter.value(operand(node))
    assert x.mask is not None
    layer = emitter.modules.get(path)
    if layer is None:
        low = list(indices(x.mask))
        layer = make(emitter.module(node), len(x.mask), low)
    return emitter.pair(emitter.call(path, layer, x.high, x.low), x.mask)


def _emit_norm(emitter: Emitter, node: fx.Node) -> Value:
    return emit_module(emitter, node, OctaveBatchNorm2d.from_module)


def _emit_position_norm(emitter: Emitter, node: fx.Node) -> Value:
    return emit_module(emitter, node, OctavePositionNorm.from_module)


def _layout_prelu(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    prelu = walk.module(node)
    assert isinstance(prelu, nn.PReLU)
    return walk.ids(operand(node)) if prelu.num_parameters == 1 else layout_norm(walk, node)


def _emit_prelu(emitter: Emitter, node: fx.Node) -> Value:
    prelu = emitter.module(node)
    assert isinstance(prelu, nn.PReLU)
    if prelu.num_parameters == 1:
        return emitter.per_branch(node, operand(node))
    return emit_module(emitter, node, OctaveChannelwise.from_module)


OPS = (
    Op(
        "BatchNorm",
        layout_norm,
        _emit_norm,
        modules=(
            nn.BatchNorm1d,
            nn.BatchNorm2d,
            nn.BatchNorm3d,
            nn.SyncBatchNorm,
            *BATCH_NORMS,
        ),
    ),
    Op(
        "norm over positions",
        layout_norm,
        _emit_position_norm,
        modules=(
            nn.InstanceNorm1d,
            nn.InstanceNorm2d,
            nn.InstanceNorm3d,
            *POSITION_NORMS,
        ),
    ),
    Op("PReLU", _layout_prelu, _emit_prelu, modules=(nn.PReLU,)),
)
