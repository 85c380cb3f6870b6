"""The mean of an image over height and width as a GlobalAveragePool, done in the runtime's own layout.

(N, C, H, W) -> (N, C, 1, 1); where the axes are dropped, a Flatten behind it copies nothing.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, flag, producer, refused, shaped


class MeanToPool(RewriteRuleClassBase):
    """ReduceMean over the last two of four axes -> GlobalAveragePool, and Flatten without ``keepdims``."""

    def pattern(self, op: Any, x: Any, axes: Any) -> Any:
        return op.ReduceMean(x, axes, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, axes: ir.Value, y: ir.Value) -> MatchResult:
        if x.shape is None or len(x.shape) != 4:
            return refused("it takes no image", x)
        if axes.const_value is None:
            return refused("its axes are computed", axes)
        if {int(axis) % 4 for axis in axes.const_value.numpy().reshape(-1)} != {2, 3}:
            return refused("its axes are not height and width", axes)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, axes: ir.Value, y: ir.Value) -> Any:
        assert x.shape is not None
        if flag(producer(y), "keepdims", default=True):
            return op.GlobalAveragePool(x)
        pooled = op.GlobalAveragePool(x, _outputs=[f"{y.name}_pooled"])
        return op.Flatten(shaped(pooled, like=y, shape=[*x.shape[:2], 1, 1]))
