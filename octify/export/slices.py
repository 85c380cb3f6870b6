"""Cropping one axis and then another as one Slice: the exporter writes one, and one copy, per axis.

Slices of different axes commute, so two are one with the bounds of both. An inner one that others read stays
for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, constant, producer, refused

Bounds = list[np.ndarray[Any, Any]]


class SlicesToOne(RewriteRuleClassBase):
    """Slice of a Slice of other axes -> Slice of all of them."""

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)

    def pattern(self, op: Any, x: Any) -> Any:
        inner = op.Slice(x, _allow_other_inputs=True, _outputs=["inner"])
        return op.Slice(inner, _allow_other_inputs=True, _outputs=["outer"])

    def check(self, context: Any, x: ir.Value, inner: ir.Value, outer: ir.Value) -> MatchResult:
        first, second = slice_bounds(producer(inner)), slice_bounds(producer(outer))
        if first is None or second is None:
            return refused("bounds are computed, or the rank is open", outer)
        if set(first[2].tolist()) & set(second[2].tolist()):
            return refused("both crop one axis", outer)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, inner: ir.Value, outer: ir.Value) -> Any:
        first, second = slice_bounds(producer(inner)), slice_bounds(producer(outer))
        assert first is not None and second is not None
        both = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
        names = ("starts", "ends", "axes", "steps")
        return op.Slice(x, *(constant(op, outer, n, b) for n, b in zip(names, both, strict=True)))


def slice_bounds(node: ir.Node) -> Bounds | None:
    """Constant starts, ends, axes (counted from the front) and steps of a Slice; None if any is computed."""
    source = node.inputs[0]
    constants = [value for value in node.inputs[1:] if value is not None and value.const_value is not None]
    if len(constants) != len(node.inputs) - 1 or len(constants) < 3 or source is None or source.shape is None:
        return None
    bounds = [value.const_value.numpy().astype(np.int64) for value in constants]  # type: ignore[union-attr]
    bounds[2] = bounds[2] % len(source.shape)
    return bounds if len(bounds) == 4 else [*bounds, np.ones_like(bounds[0])]
