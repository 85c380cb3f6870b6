"""Upsampling in front of a 1x1 convolution instead of behind it, where that spares whole maps of memory.

A low branch that is upsampled into a sum with a residual leaves two terms that no convolution makes. Runtimes
add these by themselves: the residual, the upsampled map and their sum lie in memory at once, three maps
where a sum of convolutions takes one, in place. A 1x1 convolution and upsampling by copies commute,
``U (W l + b) = W (U l) + b``, and upsampled before, the narrow map is written instead of the wide one, and
every term beside the residual is a convolution.

The convolution then has four times its multiplications, a saving only while they take less time than
the passes over the wide map: for ``WIDEST`` channels or fewer.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import accepted, ints, lone_producer, producer, refused, shaped
from octify.export.sums import end_of_sum, terms_of_sum, upsampled_terms

WIDEST = 32  # channels read; measured with ResNet-50, whose stages have 32, 64, 128 in the low branch


class UpsampleBeforeConvolution(RewriteRuleClassBase):
    """Resize of a Conv, in ``residual + conv(a) + U conv(l)`` -> Conv of a Resize, ``... + conv(U l)``."""

    def pattern(self, op: Any, x: Any) -> Any:
        narrow = op.Conv(x, _allow_other_inputs=True, _outputs=["narrow"])
        return op.Resize(narrow, _allow_other_inputs=True, _outputs=["wide"])

    def check(self, context: Any, x: ir.Value, narrow: ir.Value, wide: ir.Value) -> MatchResult:
        if not _widens(producer(narrow)):
            return refused("it is no 1x1 convolution of few channels to more", narrow)
        if wide.shape is None:
            return refused("its shape is unknown", wide)
        end = end_of_sum(wide)
        if end is None:
            return refused("it is no term of a sum", wide)
        terms = terms_of_sum(end)
        upsampled = upsampled_terms(terms)
        if upsampled != [wide]:
            return refused("it copies no samples, or several terms do and are added up first", wide)
        if all(term is wide or lone_producer(term, "Conv") for term in terms):
            return refused("all other terms are convolutions, which take up one addition each", wide)
        return accepted()

    def rewrite(self, op: Any, x: ir.Value, narrow: ir.Value, wide: ir.Value) -> Any:
        resize, conv = producer(wide), producer(narrow)
        assert x.shape is not None and wide.shape is not None
        up = op.Resize(x, *resize.inputs[1:], **resize.attributes, _outputs=[f"{x.name}_for_{wide.name}"])
        shaped(up, like=x, shape=[*x.shape[:2], *wide.shape[2:]])
        return op.Conv(up, *conv.inputs[1:], **conv.attributes)


def _widens(conv: ir.Node) -> bool:
    """Return whether ``conv`` is 1x1 and maps a few channels to more."""
    weight, source = conv.inputs[1], conv.inputs[0]
    if weight is None or weight.const_value is None or source is None or source.shape is None:
        return False
    out, read, *taps = weight.const_value.shape.numpy()
    alone = set(ints(conv, "strides", [1])) == {1} and not any(ints(conv, "pads", [0]))
    one_group = "group" not in conv.attributes or conv.attributes["group"].as_int() == 1
    return alone and one_group and set(taps) == {1} and read <= WIDEST and read < out
