"""Padding with -inf in front of a MaxPool as the padding that MaxPool does itself, in its own layout.

``max(-inf, x) = x``, so both are one where the padding is less than the window; ONNX allows no more. Where
the second output of MaxPool is read (the places of the largest samples: they count a padding in front of it),
nothing matches.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, producer, refused, text
from octify.export.pooling import windows


class PadIntoPool(RewriteRuleClassBase):
    """MaxPool of Pad -> MaxPool with more ``pads``."""

    def pattern(self, op: Any, x: Any, amounts: Any, filler: Any) -> Any:
        return op.MaxPool(op.Pad(x, amounts, filler, _outputs=["padded"]), _outputs=["y"])

    def check(
        self,
        context: Any,
        x: ir.Value,
        amounts: ir.Value,
        filler: ir.Value,
        padded: ir.Value,
        y: ir.Value,
    ) -> MatchResult:
        if text(producer(padded), "mode", "constant") != "constant":
            return refused("it pads with samples of the map", padded)
        if amounts.const_value is None or filler.const_value is None:
            return refused("it pads by what is computed", padded)
        if filler.const_value.numpy().reshape(-1).tolist() != [float("-inf")]:
            return refused("it pads with something else than -inf", filler)
        lie = windows(producer(y))
        if lie is None:
            return refused("the runtime computes its padding", y)
        outside, inside = _amounts(amounts)
        if any(outside) or min(inside) < 0:
            return refused("it pads batch or channels, or crops", amounts)
        together = [a + b for a, b in zip(lie.pads, inside, strict=True)]
        if any(not 0 <= n < lie.kernel[axis % len(lie.kernel)] for axis, n in enumerate(together)):
            return refused("it pads by a whole window", amounts)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, amounts: ir.Value, y: ir.Value, **_: ir.Value) -> Any:
        node = producer(y)
        lie = windows(node)
        assert lie is not None
        together = [a + b for a, b in zip(lie.pads, _amounts(amounts)[1], strict=True)]
        return op.MaxPool(x, **{**node.attributes, "pads": together})


def _amounts(amounts: ir.Value) -> tuple[list[int], list[int]]:
    """Amounts of a Pad for batch and channels, and for the spatial axes; each all begins, then all ends."""
    assert amounts.const_value is not None
    numbers = [int(n) for n in amounts.const_value.numpy().reshape(-1)]
    rank = len(numbers) // 2
    begin, end = numbers[:rank], numbers[rank:]
    return begin[:2] + end[:2], begin[2:] + end[2:]
