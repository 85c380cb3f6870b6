"""Linear layers over the channels of a channels-last map: they are 1x1 convolutions.

ConvNeXt permutes (N, C, H, W) to (N, H, W, C), applies two linear layers at every position and
permutes back. Such a layer begins, carries and ends octave values as a convolution does. It is
recognised by its operand having come from a map whose channels were moved last; a linear layer
over anything else, such as the features of a classifier, is left as it is.
"""

from __future__ import annotations

import numpy as np
from torch import fx, nn

from octify.compat import ConvNd, forward_hooks, forward_pre_hooks
from octify.layout.channels import DENSE, Ids, Refusal
from octify.layout.roles import View, is_vector, map_shape
from octify.nn.conv import OCTAVE_CONV
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

_CONV: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


def channels_of(module: nn.Module | None) -> tuple[int, int] | None:
    """Input and output channels of a convolution or a linear layer; None for others."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return (module.in_channels, module.out_channels) if isinstance(module, ConvNd) else None


def conv_form(module: nn.Module | None, spatial_dims: int) -> ConvNd:
    """A convolution as it is; a linear layer as the 1x1 convolution with the same weight."""
    if isinstance(module, ConvNd):
        return module
    assert isinstance(module, nn.Linear)
    conv = _CONV[spatial_dims](module.in_features, module.out_features, 1, device="meta")
    taps = (1,) * spatial_dims
    weight = module.weight
    conv.weight = nn.Parameter(weight.detach().reshape(*weight.shape, *taps), weight.requires_grad)
    conv.bias = None if module.bias is None else nn.Parameter(module.bias.detach(), module.bias.requires_grad)
    return conv.train(module.training)


def _layout(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    source, path = operand(node), str(node.target)
    linear = walk.module(node)
    assert isinstance(linear, nn.Linear)
    view = walk.view(source)
    reason = None if view is None else _refusal(linear, view, walk.shape(source))
    if view is None or reason is not None:
        return Refusal(reason or "") if walk.coupled(source) else walk.dense(node)
    reason = walk.untouched.get(path) or walk.read.get(path)
    if reason is not None:
        return Refusal(reason)
    if path in walk.dense_outputs:
        out = np.full(linear.out_features, DENSE)
    else:
        earlier = walk.shared_output(node)
        out = walk.fresh(linear.out_features) if earlier is None else earlier
    return View(view.roles, walk.conv(node, view.ids, out))


def _refusal(linear: nn.Linear, view: View, shape: tuple[int, ...]) -> str | None:
    """Why it is no 1x1 convolution of a map, if it is none."""
    if view.standard or view.roles.count("C") != 1 or not view.roles.endswith("C"):
        return "it mixes positions, not channels"
    if not 1 <= view.roles.count("S") <= 3 or is_vector(map_shape(view.roles, shape)):
        return "it has one sample per channel"
    if forward_hooks(linear) or forward_pre_hooks(linear):
        return "it has forward hooks, which a rewritten layer would lose"
    return None


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    path = str(node.target)
    planned = emitter.plan.conv(path)
    if not planned.converted:
        return Value(emitter.copy(node))
    source = operand(node)
    mask = np.zeros(planned.in_channels, dtype=bool)
    mask[list(planned.low_in)] = True
    x = emitter.as_mask(source, mask) if planned.low_in else Value(emitter.as_map(source))
    layer = emitter.modules.get(path)
    if layer is None:
        dims = len(emitter.shape(source)) - 2
        conv = conv_form(emitter.module(node), dims)
        layer = OCTAVE_CONV[dims].from_conv(
            conv, planned.low_in, planned.low_out, planned.kernels, planned.exchange
        )
    pair = emitter.pair(emitter.call(path, layer, x.high, x.low), emitter.mask(node))
    return emitter.spread(node, pair)


OPS = (Op("linear layer of a map", _layout, _emit, modules=(nn.Linear,), views=True),)
