"""Cropping in an exported graph: by one Slice, or by a convolution that stays in the runtime's layout.

Of a map of odd size the upsampled low branch is one sample too long, and cropped. For a Slice, runtimes
leave the blocked layout of their convolutions and come back to it. A depthwise convolution whose kernel
is 1 at its first tap and 0 at the others copies all but the last row and column, in that layout, and
takes up an addition behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from octify.export.edit import becomes, constant, known

_BLOCKED = frozenset({"Resize", "Conv", "MaxPool", "AveragePool"})  # what runtimes do in their own layout


def slices_to_one(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Cropping one axis and then another is one Slice: the exporter writes one, and one copy, per axis."""
    source = node.inputs[0] if node.op_type == "Slice" else None
    before = None if source is None else source.producer()
    if before is None or before.op_type != "Slice":
        return
    inner, outer = _slice_bounds(before), _slice_bounds(node)
    if inner is None or outer is None or set(inner[2]) & set(outer[2]):
        return
    node.resize_inputs(5)
    node.replace_input_with(0, before.inputs[0])
    for index, name in enumerate(("starts", "ends", "axes", "steps")):
        both = np.concatenate([inner[index], outer[index]])
        node.replace_input_with(index + 1, constant(graph, node.outputs[0], name, both))
    if not before.outputs[0].uses() and not before.outputs[0].is_graph_output():
        graph.remove(before, safe=True)  # rules that follow ask who reads what it read


def crop_by_convolution(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Leaving out the last row and column of an image is a depthwise Conv where its source is in blocks."""
    source, target = node.inputs[0], node.outputs[0]
    if node.op_type != "Slice" or source is None or source.shape is None or target.shape is None:
        return
    before, bounds, dtype = source.producer(), _slice_bounds(node), source.dtype
    if before is None or before.op_type not in _BLOCKED or bounds is None or dtype is None:
        return
    starts, _, axes, steps = bounds
    have, want, channels = known(source.shape[2:]), known(target.shape[2:]), source.shape[1]
    if have is None or want is None or len(have) != 2 or not isinstance(channels, int):
        return
    cropped = [h - w for h, w in zip(have, want, strict=True)]
    if starts.any() or (steps != 1).any() or not set(axes) <= {2, 3} or max(cropped) > 1:
        return
    kernel = [1 + n for n in cropped]
    weight = np.zeros((channels, 1, *kernel), dtype=dtype.numpy())
    weight[:, :, 0, 0] = 1
    node.attributes.clear()
    becomes(node, "Conv", source, constant(graph, target, "first", weight))
    node.attributes["group"] = ir.AttrInt64("group", channels)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", kernel)


def _slice_bounds(node: ir.Node) -> list[np.ndarray[Any, Any]] | None:
    """Constant starts, ends, axes (counted from the front) and steps of a Slice; None if any is computed."""
    source = node.inputs[0]
    given = [value for value in node.inputs[1:] if value is not None and value.const_value is not None]
    if len(given) != len(node.inputs) - 1 or len(given) < 3 or source is None or source.shape is None:
        return None
    bounds = [value.const_value.numpy().astype(np.int64) for value in given]  # type: ignore[union-attr]
    bounds[2] = bounds[2] % len(source.shape)
    return bounds if len(bounds) == 4 else [*bounds, np.ones_like(bounds[0])]
