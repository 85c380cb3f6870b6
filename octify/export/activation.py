"""Activations that no runtime fuses with a sum, in the layout of the convolutions that are added up.

Runtimes fuse a convolution with an addition and ReLU behind it, but not with ReLU6 or LeakyReLU: those they
do by themselves, for which onnxruntime leaves its blocked layout and comes back to it, three passes over
the map. A depthwise 1x1 convolution by 1 changes nothing, stays in the layout, and does fuse with the
activation: one pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, channels_of, constant, producer, refused, shaped


class ActivationOfSum(RewriteRuleClassBase):
    """``op_type`` (Clip or LeakyRelu) of a sum of convolutions -> of a depthwise Conv by 1 of that sum."""

    def __init__(self, op_type: str) -> None:
        super().__init__(f"{type(self).__name__}({op_type})")
        self.op_type = op_type

    def pattern(self, op: Any, a: Any, b: Any) -> Any:
        total = op.Add(a, b, _outputs=["total"])
        return getattr(op, self.op_type)(total, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, a: ir.Value, b: ir.Value, total: ir.Value, y: ir.Value) -> MatchResult:
        if total.shape is None or total.dtype is None or len(total.shape) != 4:
            return refused("it is no image", total)
        if not isinstance(total.shape[1], int):
            return refused("its channels are open", total)
        terms = [value.producer() for value in (a, b)]
        if not any(term is not None and term.op_type == "Conv" for term in terms):
            return refused("no term comes from a convolution", total)
        return accepted()

    def rewrite(self, op: Any, a: ir.Value, b: ir.Value, total: ir.Value, y: ir.Value) -> Any:
        assert total.shape is not None and total.dtype is not None
        channels, shape, node = channels_of(total), list(total.shape), producer(y)
        ones = np.ones((channels, 1, 1, 1), dtype=total.dtype.numpy())
        again = shaped(op.Add(a, b, _outputs=[total.name]), like=total, shape=shape)
        one = constant(op, total, "one", ones)
        same = op.Conv(again, one, group=channels, kernel_shape=[1, 1], _outputs=[f"{total.name}_same"])
        activation = getattr(op, self.op_type)
        return activation(shaped(same, like=total, shape=shape), *node.inputs[1:], **node.attributes)
