"""Expansions of octave values as one convolution a branch, where no runtime fuses the sum of two.

An inverted residual expands by a 1x1 convolution with ReLU6 behind it. Runtimes fuse a convolution with
ReLU6, but not a sum with it, and the wide map is written and read once more for each. Both convolutions of a
branch read narrow maps, so that these are put one behind the other instead::

    W_h h + U (W_l l) = [W_h, W_l] concat(h, U l)        W_h P h + W_l l = [W_h, W_l] concat(P h, l)

(a 1x1 convolution and upsampling by copies commute). It pays where the convolution has at least ``WIDER``
times as many outputs as inputs: the copies are then few. Sums of more terms, residuals, stay: those are
fused with their convolutions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from octify.export.edit import (
    accepted,
    constant,
    ints,
    lone_producer,
    producer,
    refused,
    shaped,
    static_sizes,
)
from octify.export.sums import upsampled_terms

WIDER = 2
_UNFUSED = ("Clip", "LeakyRelu")  # activations that runtimes fuse with a convolution, and not with a sum


class WideningOfHigh(RewriteRuleClassBase):
    """Clip or LeakyRelu of ``Conv(h) + Resize(Conv(l))`` -> of ``Conv(Concat(h, Resize(l)))``."""

    def pattern(self, op: Any, high: Any, low: Any) -> Any:
        first = op.Conv(high, _allow_other_inputs=True, _outputs=["first"])
        narrow = op.Conv(low, _allow_other_inputs=True, _outputs=["narrow"])
        return op.Add(first, op.Resize(narrow, _allow_other_inputs=True, _outputs=["wide"]), _outputs=["y"])

    def check(
        self,
        context: Any,
        high: ir.Value,
        low: ir.Value,
        first: ir.Value,
        narrow: ir.Value,
        wide: ir.Value,
        y: ir.Value,
    ) -> MatchResult:
        if not upsampled_terms([wide]):
            return refused("it is not upsampled by copies, or read elsewhere", wide)
        if high.shape is None or y.shape is None or high.shape[2:] != y.shape[2:]:
            return refused("the sizes of the branches differ", high)
        return _joinable(first, narrow, y)

    def rewrite(
        self, op: Any, high: ir.Value, low: ir.Value, wide: ir.Value, y: ir.Value, **convs: ir.Value
    ) -> Any:
        resize = producer(wide)
        assert low.shape is not None and wide.shape is not None
        up = op.Resize(low, *resize.inputs[1:], **resize.attributes, _outputs=[f"{low.name}_for_{y.name}"])
        shaped(up, like=low, shape=[*low.shape[:2], *wide.shape[2:]])
        return _joined(op, [high, up], [convs["first"], convs["narrow"]], y)


class WideningOfLow(RewriteRuleClassBase):
    """Clip or LeakyRelu of ``Conv(h) + Conv(l)`` -> of ``Conv(Concat(h, l))``."""

    def pattern(self, op: Any, high: Any, low: Any) -> Any:
        first = op.Conv(high, _allow_other_inputs=True, _outputs=["first"])
        return op.Add(first, op.Conv(low, _allow_other_inputs=True, _outputs=["second"]), _outputs=["y"])

    def check(
        self, context: Any, high: ir.Value, low: ir.Value, first: ir.Value, second: ir.Value, y: ir.Value
    ) -> MatchResult:
        if high.shape is None or low.shape is None or high.shape[2:] != low.shape[2:]:
            return refused("the sizes of the branches differ", high)
        return _joinable(first, second, y)

    def rewrite(self, op: Any, high: ir.Value, low: ir.Value, y: ir.Value, **convs: ir.Value) -> Any:
        return _joined(op, [high, low], [convs["first"], convs["second"]], y)


def _joinable(first: ir.Value, second: ir.Value, y: ir.Value) -> MatchResult:
    """Check whether the sum ``y`` of two convolutions can be one convolution, and gains by it."""
    uses = list(y.uses())
    if y.is_graph_output() or len(uses) != 1 or uses[0].node.op_type not in _UNFUSED:
        return refused("no activation reads it that runtimes fuse with a convolution only", y)
    kernels = []
    for value in (first, second):
        conv = lone_producer(value, "Conv")
        kernel = None if conv is None else _pointwise(conv)
        if kernel is None:
            return refused("it is no 1x1 convolution of constant weights for one reader", value)
        kernels.append(kernel)
    if kernels[0].shape[0] != kernels[1].shape[0]:
        return refused("one convolution is broadcast", second)
    if WIDER * sum(kernel.shape[1] for kernel in kernels) > kernels[0].shape[0]:
        return refused("it does not widen", y)
    return accepted()


def _pointwise(conv: ir.Node) -> np.ndarray[Any, Any] | None:
    """The kernel (out, in, 1, 1) of a dense 1x1 convolution; None of any other."""
    weight = conv.inputs[1]
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    if weight is None or weight.const_value is None or (bias is not None and bias.const_value is None):
        return None
    shape = list(weight.const_value.shape.numpy())
    alone = set(ints(conv, "strides", [1])) == {1} and not any(ints(conv, "pads", [0]))
    group = conv.attributes.get("group")
    if shape[2:] != [1, 1] or not alone or (group is not None and group.as_int() != 1):
        return None
    return weight.const_value.numpy()


def _joined(op: Any, sources: list[ir.Value], convs: list[ir.Value], y: ir.Value) -> Any:
    """One convolution over ``sources``, one behind the other, of the weights of ``convs``."""
    nodes = [producer(value) for value in convs]
    kernels = [_pointwise(node) for node in nodes]
    weight = np.concatenate([kernel for kernel in kernels if kernel is not None], axis=1)
    biases = [node.inputs[2] for node in nodes if len(node.inputs) > 2 and node.inputs[2] is not None]
    shapes = [value.shape for value in sources if value.shape is not None]
    channels = static_sizes([shape[1] for shape in shapes])
    assert channels is not None
    both = op.Concat(*sources, axis=1, _outputs=[f"{y.name}_read"])
    shaped(both, like=sources[0], shape=[shapes[0][0], sum(channels), *shapes[0][2:]])
    operands = [constant(op, y, "weight", weight)]
    if biases:
        arrays = [bias.const_value.numpy() for bias in biases if bias.const_value is not None]
        operands.append(constant(op, y, "bias", np.sum(arrays, axis=0, dtype=weight.dtype)))
    return op.Conv(both, *operands, kernel_shape=[1, 1])
