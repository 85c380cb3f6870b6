"""Cropping in an exported graph by a convolution that stays in the runtime's layout.

On a map of odd size the upsampled low branch is one sample too long, and cropped. For a Slice, runtimes
leave the blocked layout of their convolutions and come back to it. A depthwise convolution whose kernel
is 1 at its first tap and 0 at the others copies all but the last row and column, in that layout, and
takes up an addition behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, channels_of, constant, producer, refused, static_sizes
from octify.export.slices import slice_bounds

_BLOCKED = frozenset(
    {"Resize", "Conv", "MaxPool", "AveragePool"}
)  # operators that runtimes execute in their own layout


class CropToConvolution(RewriteRuleClassBase):
    """Slice that leaves out an image's last row, column or both -> depthwise Conv."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Slice(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value) -> MatchResult:
        before, bounds = x.producer(), slice_bounds(producer(y))
        if before is None or before.op_type not in _BLOCKED:
            return refused("its source lies in no blocks", x)
        if bounds is None or x.dtype is None:
            return refused("bounds are computed, or the rank or type is open", y)
        cropped = _cropped(x, y)
        if cropped is None:
            return refused("it is no image of known channels and sizes", x)
        starts, _, axes, steps = bounds
        if starts.any() or (steps != 1).any() or not set(axes.tolist()) <= {2, 3} or max(cropped) > 1:
            return refused("it leaves out more than the last row and column", y)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
        cropped = _cropped(x, y)
        assert cropped is not None and x.dtype is not None
        channels, kernel = channels_of(x), [1 + n for n in cropped]
        weight = np.zeros((channels, 1, *kernel), dtype=x.dtype.numpy())
        weight[:, :, 0, 0] = 1
        return op.Conv(x, constant(op, y, "first", weight), group=channels, kernel_shape=kernel)


def _cropped(x: ir.Value, y: ir.Value) -> list[int] | None:
    """Number of cropped rows and columns of ``y``; None unless both are images of static sizes."""
    if x.shape is None or y.shape is None or len(x.shape) != 4 or not isinstance(x.shape[1], int):
        return None
    have, want = static_sizes(x.shape[2:]), static_sizes(y.shape[2:])
    if have is None or want is None:
        return None
    return [h - w for h, w in zip(have, want, strict=True)]
