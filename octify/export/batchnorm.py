"""A BatchNormalization that nothing absorbed, as a 1x1 depthwise Conv.

In inference it is a scale and a shift per channel::

    weight (x - mean) / sqrt(variance + epsilon) + bias = scale x + shift

On a map (N, C, *size) that is a depthwise convolution of one tap, which runtimes do in their own layout; on
rows (N, C) it is Mul and Add. Models that torch.fx cannot trace keep such nodes, as does functional
``F.batch_norm``; all others were folded before the export (``octify.export.fold``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, constant, flag, producer, refused, shaped

Vector = np.ndarray[Any, np.dtype[np.float64]]


class BatchNormToConvolution(RewriteRuleClassBase):
    """BatchNormalization (N, C, ...) of fixed statistics -> Conv, or Mul and Add."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.BatchNormalization(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value) -> MatchResult:
        node = producer(y)
        if flag(node, "training_mode"):
            return refused("it normalizes by the statistics of the batch", node)
        if x.shape is None or len(x.shape) < 2:
            return refused("the rank of its input is open", x)
        if len(node.inputs) != 5 or any(v is None or v.const_value is None for v in node.inputs[1:]):
            return refused("its weight, bias, mean and variance are not all constants", node)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
        assert x.shape is not None
        scale, shift = _affine(producer(y))
        dtype, spatial = (x.dtype or ir.DataType.FLOAT).numpy(), len(x.shape) - 2
        offset = constant(op, y, "shift", shift.astype(dtype))
        if not spatial:
            factor = constant(op, y, "scale", scale.astype(dtype))
            product = op.Mul(x, factor, _outputs=[f"{y.name}_scaled"])
            return op.Add(shaped(product, like=x, shape=list(x.shape)), offset)
        kernel = constant(op, y, "scale", scale.reshape(-1, 1, *[1] * spatial).astype(dtype))
        return op.Conv(x, kernel, offset, group=scale.size, kernel_shape=[1] * spatial)


def _affine(norm: ir.Node) -> tuple[Vector, Vector]:
    """Scale and shift of the channels, each (C,)."""
    tensors = [value.const_value for value in norm.inputs[1:] if value is not None]
    weight, bias, mean, variance = (t.numpy().astype(np.float64) for t in tensors if t is not None)
    epsilon = norm.attributes.get("epsilon")
    scale = weight / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    return scale, bias - mean * scale
