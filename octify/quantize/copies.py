"""Upsampling by 2 of int8 maps as copies of bytes.

onnxruntime's integer Resize handles one value after the other; its Concat copies blocks. In the layout
(N, H, W, C), which its integer kernels have anyway, a map of h x w is doubled by two Concats::

    (N, h, w, C) -> (N, h, w, 2 C) = (N, h, 1, 2 w C) -> (N, h, 2, 2 w C) = (N, 2 h, 2 w, C)

No value changes: the result is bit by bit that of the Resize between DequantizeLinear and QuantizeLinear of
one scale. The Transposes in front and behind cancel against onnxruntime's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, constant, producer, refused, shaped, static_sizes, text

_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


class UpsampleByCopies(RewriteRuleClassBase):
    """QuantizeLinear of a Resize by 2 of DequantizeLinear, of one scale -> Concats of bytes."""

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)  # the DequantizeLinear may have other readers

    def pattern(self, op: Any, x: Any, scale: Any, zero: Any, scale_out: Any, zero_out: Any) -> Any:
        real = op.DequantizeLinear(x, scale, zero)
        wide = op.Resize(real, _allow_other_inputs=True, _outputs=["wide"])
        return op.QuantizeLinear(wide, scale_out, zero_out, _outputs=["y"])

    def check(
        self,
        context: Any,
        x: ir.Value,
        scale: ir.Value,
        zero: ir.Value,
        scale_out: ir.Value,
        zero_out: ir.Value,
        wide: ir.Value,
        y: ir.Value,
    ) -> MatchResult:
        if not (_equal(scale, scale_out) and _equal(zero, zero_out)):
            return refused("the scales in front and behind differ", y)
        if not _doubles(producer(wide)):
            return refused("it is no upsampling by 2 by copies", wide)
        if len(wide.uses()) != 1 or wide.is_graph_output():
            return refused("the map is read as floats too", wide)
        source = producer(wide).inputs[0]
        shape = None if source is None else source.shape
        if shape is None or len(shape) != 4 or static_sizes(shape[1:]) is None:
            return refused("its channels or sizes are open", wide)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, wide: ir.Value, y: ir.Value, **_: ir.Value) -> Any:
        source = producer(wide).inputs[0]
        assert source is not None and source.shape is not None
        sizes = static_sizes(source.shape[1:])
        assert sizes is not None
        batch, (channels, height, width) = source.shape[0], sizes

        def step(value: Any, shape: list[Any]) -> ir.Value:
            return shaped(value, like=y, shape=[batch, *shape])

        def reshaped(value: ir.Value, purpose: str, shape: list[int]) -> ir.Value:
            target = constant(op, y, purpose, np.array([0, *shape], dtype=np.int64))
            return step(op.Reshape(value, target, _outputs=[f"{y.name}_{purpose}d"]), list(shape))

        last = step(op.Transpose(x, perm=_TO_LAST, _outputs=[f"{y.name}_last"]), [height, width, channels])
        twice = step(
            op.Concat(last, last, axis=3, _outputs=[f"{y.name}_twice"]), [height, width, 2 * channels]
        )
        rows = reshaped(twice, "row", [height, 1, 2 * width * channels])
        both = step(
            op.Concat(rows, rows, axis=2, _outputs=[f"{y.name}_both"]), [height, 2, 2 * width * channels]
        )
        doubled = reshaped(both, "double", [2 * height, 2 * width, channels])
        return op.Transpose(doubled, perm=_TO_FIRST)


def _equal(a: ir.Value, b: ir.Value) -> bool:
    if a is b:
        return True
    if a.const_value is None or b.const_value is None:
        return False
    return bool(np.array_equal(a.const_value.numpy(), b.const_value.numpy()))


def _doubles(resize: ir.Node) -> bool:
    """Check that a Resize doubles height and width by nearest samples, each the one at half its place."""
    if len(resize.inputs) != 3 or "axes" in resize.attributes:
        return False
    scales = resize.inputs[2]
    if scales is None or scales.const_value is None or scales.const_value.numpy().tolist() != [1, 1, 2, 2]:
        return False
    return (
        text(resize, "mode", "nearest") == "nearest"
        and text(resize, "coordinate_transformation_mode", "half_pixel") == "asymmetric"
        and text(resize, "nearest_mode", "round_prefer_floor") == "floor"
    )
