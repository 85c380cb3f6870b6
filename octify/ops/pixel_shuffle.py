"""Pixel shuffle and its inverse: space becomes channels, or channels become space.

The sub-channels of one channel are tied, so a channel and all that it is made of have one level
(``octify.nn.pixel_shuffle``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from octify.layout.channels import Ids, Mask, Refusal
from octify.layout.roles import is_vector
from octify.nn.pixel_shuffle import low_pixel_shuffle, low_pixel_unshuffle
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.softmax import tied
from octify.ops.walk import Walk


def _factor(walk: Walk | Emitter, node: fx.Node) -> Any:
    module = walk.traced.submodule(node)
    if isinstance(module, nn.PixelShuffle):
        return module.upscale_factor
    if isinstance(module, nn.PixelUnshuffle):
        return module.downscale_factor
    name = "upscale_factor" if _shuffles(walk, node) else "downscale_factor"
    return operand(node, 1, name)


def _shuffles(walk: Walk | Emitter, node: fx.Node) -> bool:
    return isinstance(walk.traced.submodule(node), nn.PixelShuffle) or node.target in _SHUFFLES


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    source = operand(node)
    ids = walk.ids(source)
    if ids is None or not walk.coupled(source):
        return walk.dense(node)
    factor = _factor(walk, node)
    if not isinstance(factor, int) or len(walk.shape(source)) != 4 or is_vector(walk.shape(source)):
        return Refusal("it does not take apart or put together a map by a known factor")
    if _shuffles(walk, node):
        return tied(walk, ids.reshape(-1, factor * factor), (1,)).ravel()
    return np.repeat(ids, factor * factor)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    mask, factor = emitter.mask(node), _factor(emitter, node)
    if mask is None:
        return Value(emitter.copy(node))
    plain: Callable[..., Any] = F.pixel_unshuffle
    function: Callable[..., Any] = low_pixel_unshuffle
    x = emitter.value(operand(node))
    if _shuffles(emitter, node):
        plain, function = F.pixel_shuffle, low_pixel_shuffle
        input_mask: Mask = np.repeat(mask, factor * factor)
        x = emitter.as_mask(operand(node), input_mask)
    high = None if x.high is None else emitter.function(plain, x.high, factor)
    return Value(high, emitter.function(function, x.low, x.high, factor), mask)


_SHUFFLES = (F.pixel_shuffle, torch.pixel_shuffle)

OPS = (
    Op(
        "pixel shuffle",
        _layout,
        _emit,
        modules=(nn.PixelShuffle, nn.PixelUnshuffle),
        functions=(*dict.fromkeys((*_SHUFFLES, F.pixel_unshuffle, torch.pixel_unshuffle)),),
    ),
)
