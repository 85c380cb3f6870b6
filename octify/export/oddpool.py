"""A 2x average pooling of a map of odd size as padding and a depthwise Conv of weights 1/4.

The last window of a row lies half outside, and means what lies inside. With the last row and column repeated
once, it lies inside, and its mean is the same: ``(a + a) / 2 = a``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import (
    accepted,
    channels_of,
    constant,
    flag,
    producer,
    refused,
    shaped,
    static_sizes,
)
from octify.export.pooling import Windows, windows

_TWO = [2, 2]
_TILES = Windows(kernel=_TWO, strides=_TWO, dilations=[1, 1], pads=[0] * 4)


class OddPoolToConvolution(RewriteRuleClassBase):
    """AveragePool of 2x2 by 2 whose last windows stick out -> Pad by copies, depthwise Conv of 2x2 by 2."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.AveragePool(x, kernel_shape=_TWO, strides=_TWO, ceil_mode=1, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value) -> MatchResult:
        node = producer(y)
        if windows(node) != _TILES:
            return refused("its windows do not tile the map", node)
        if flag(node, "count_include_pad"):
            return refused("it means what lies outside as well", node)
        if x.shape is None or not isinstance(x.shape[1], int) or x.dtype is None:
            return refused("its channels or their type are unknown", x)
        if static_sizes(x.shape[2:]) is None:
            return refused("a size is open", x)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
        assert x.shape is not None and x.dtype is not None
        size = static_sizes(x.shape[2:])
        assert size is not None
        channels, missing = channels_of(x), [n % 2 for n in size]
        amounts = constant(op, y, "missing", np.array([0] * 6 + missing, dtype=np.int64))
        padded = op.Pad(x, amounts, mode="edge", _outputs=[f"{y.name}_padded"])
        even = [n + more for n, more in zip(size, missing, strict=True)]
        shaped(padded, like=x, shape=[*x.shape[:2], *even])
        mean = constant(op, y, "mean", np.full((channels, 1, *_TWO), 1 / 4, dtype=x.dtype.numpy()))
        return op.Conv(padded, mean, group=channels, kernel_shape=_TWO, strides=_TWO)
