"""Resize by constants instead of a size that is computed at run time.

The exporter computes the size (Shape, Concat) because the batch is open, though batch and channels are never
resized. A Resize from ``n`` to ``m`` samples, both known, is one by the scale ``m / n`` where that is a whole
number, which runtimes do fastest; else it is one of the spatial axes alone to the constant size ``m``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase
from onnxscript.rewriter.pattern import ANY_VALUE

from octify.export.edit import accepted, constant, producer, refused, static_sizes, text

_AXES_OPSET = 18  # the first in which Resize takes "axes"


class ResizeByScales(RewriteRuleClassBase):
    """Resize to a size -> Resize by scales that are whole numbers."""

    def pattern(self, op: Any, x: Any, sizes: Any) -> Any:
        return op.Resize(x, ANY_VALUE, ANY_VALUE, sizes, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, sizes: ir.Value) -> MatchResult:
        constant_size = _constant_size(x, y)
        if not constant_size:
            return constant_size
        if not all(factor.is_integer() for factor in _factors(x, y)):
            return refused("its scales are no whole numbers", y)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, sizes: ir.Value) -> Any:
        node = producer(y)
        scales = np.array([1.0, 1.0, *_factors(x, y)], dtype=np.float32)
        return op.Resize(x, node.inputs[1], constant(op, y, "scales", scales), **node.attributes)


class ResizeToConstantSize(RewriteRuleClassBase):
    """Resize to a size -> Resize of the axes behind the channels to a constant size."""

    def pattern(self, op: Any, x: Any, sizes: Any) -> Any:
        return op.Resize(x, ANY_VALUE, ANY_VALUE, sizes, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, sizes: ir.Value) -> MatchResult:
        constant_size = _constant_size(x, y)
        if not constant_size:
            return constant_size
        if context.model.opset_imports[""] < _AXES_OPSET:
            return refused(f"Resize takes axes from opset {_AXES_OPSET} on", y)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, sizes: ir.Value) -> Any:
        node = producer(y)
        assert y.shape is not None
        want = static_sizes(y.shape[2:])
        assert want is not None
        size = constant(op, y, "sizes", np.array(want, dtype=np.int64))
        axes = list(range(2, 2 + len(want)))
        return op.Resize(x, node.inputs[1], node.inputs[2], size, **node.attributes, axes=axes)


def _constant_size(x: ir.Value, y: ir.Value) -> MatchResult:
    """Return whether only spatial axes are resized, to a constant size."""
    node = producer(y)
    if x.shape is None or y.shape is None:
        return refused("a shape is unknown", node)
    if "axes" in node.attributes:
        return refused("it names its axes already", node)
    if text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return refused("its scales hang on each other", node)
    if x.shape[:2] != y.shape[:2]:
        return refused("it resizes the batch or the channels", node)
    if static_sizes(x.shape[2:]) is None or static_sizes(y.shape[2:]) is None:
        return refused("a size is open", node)
    return accepted()


def _factors(x: ir.Value, y: ir.Value) -> list[float]:
    """Growth factor of each spatial axis; all sizes are static."""
    assert x.shape is not None and y.shape is not None
    have, want = static_sizes(x.shape[2:]), static_sizes(y.shape[2:])
    assert have is not None and want is not None
    return [w / h for w, h in zip(want, have, strict=True)]
