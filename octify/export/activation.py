"""Activations that no runtime fuses with a sum, in the layout of the convolutions that are added up.

Runtimes fuse a convolution with an addition and ReLU behind it, but not with ReLU6 or LeakyReLU: those they
do by themselves, for which onnxruntime leaves its blocked layout and comes back to it, three passes over
the map. A depthwise 1x1 convolution by 1 changes nothing, stays in the layout, and does fuse with the
activation: one pass.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from octify.export.edit import constant, inserted, lone_producer

_ALONE = frozenset({"Clip", "LeakyRelu"})  # fused with a convolution, but not with a sum


def activation_of_sum_by_convolution(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Clip or LeakyRelu of a sum of convolutions of images follows a depthwise Conv by 1 of it."""
    source = node.inputs[0] if node.op_type in _ALONE else None
    added = None if source is None else lone_producer(source, "Add")
    if source is None or added is None or not source.shape or source.dtype is None:
        return
    channels = source.shape[1]
    sums = [value.producer() for value in added.inputs if value is not None]
    by_convolution = any(term is not None and term.op_type == "Conv" for term in sums)
    if len(source.shape) != 4 or not isinstance(channels, int) or not by_convolution:
        return
    ones = np.ones((channels, 1, 1, 1), dtype=source.dtype.numpy())
    attributes = [ir.AttrInt64("group", channels), ir.AttrInt64s("kernel_shape", [1, 1])]
    weight = constant(graph, source, "one", ones)
    same = inserted(node, "Conv", [source, weight], f"{source.name}_same", attributes)
    same.type, same.shape = source.type, source.shape
    node.replace_input_with(0, same)
