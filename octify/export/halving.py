"""A 2x average pooling of images as a depthwise Conv of weights 1/4.

In float it takes the same time. Where the channels fill no whole blocks of 8 or 16, in which runtimes keep
maps, they do a convolution there but leave that layout for a pooling; and their integer average
pooling, which a quantized file would get, is slow where their integer depthwise convolution is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, channels_of, constant, flag, producer, refused
from octify.export.pooling import Windows, windows

_TWO = [2, 2]
_TILES = Windows(kernel=_TWO, strides=_TWO, dilations=[1, 1], pads=[0] * 4)


class HalvingPoolToConvolution(RewriteRuleClassBase):
    """AveragePool of 2x2 by 2, (N, C, H, W) -> depthwise Conv of 2x2 by 2."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.AveragePool(x, kernel_shape=_TWO, strides=_TWO, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value) -> MatchResult:
        node = producer(y)
        if windows(node) != _TILES:
            return refused("its windows do not tile the map", node)
        if flag(node, "ceil_mode"):
            return refused("its last windows may stick out", node)
        if x.shape is None or not isinstance(x.shape[1], int) or x.dtype is None:
            return refused("its channels or their type are unknown", x)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
        assert x.dtype is not None
        channels = channels_of(x)
        mean = constant(op, y, "mean", np.full((channels, 1, *_TWO), 1 / 4, dtype=x.dtype.numpy()))
        return op.Conv(x, mean, group=channels, kernel_shape=_TWO, strides=_TWO)
