"""Pooling without ``ceil_mode`` where it changes nothing.

A pooling has ``ceil((n + pads - reach) / stride) + 1`` windows with it and ``floor(...) + 1`` without. Where
the stride divides, they are as many, and the last one ends where the padded input does.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, producer, refused, static_sizes
from octify.export.pooling import windows


class PoolWithoutCeil(RewriteRuleClassBase):
    """``op_type`` (AveragePool or MaxPool) with ``ceil_mode`` -> the same without."""

    def __init__(self, op_type: str) -> None:
        super().__init__(f"{type(self).__name__}({op_type})")
        self.op_type = op_type

    def pattern(self, op: Any, x: Any) -> Any:
        return getattr(op, self.op_type)(x, ceil_mode=1, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value) -> MatchResult:
        lie = windows(producer(y))
        if lie is None:
            return refused("the runtime computes its padding", y)
        size = None if x.shape is None else static_sizes(x.shape[2:])
        if size is None:
            return refused("a size is open", x)
        if any(lie.uncovered(axis, n) for axis, n in enumerate(size)):
            return refused("a window sticks out", y)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
        attributes = {**producer(y).attributes, "ceil_mode": 0}
        return getattr(op, self.op_type)(x, **attributes)
