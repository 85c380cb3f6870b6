"""A linear layer that reads a flattened octave map, without the merge in between.

``W flatten(U x) = W' flatten(x)``, where ``W'`` has for every low sample the sum of the weights of the
positions that it stands for. So the layer reads both branches as they are stored, has fewer weights (5/8
of them at alpha .5) and needs no upsampling: at batch 1, where its time is that of reading its weights,
as much is saved of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from octify.export.edit import constant, inserted, known, lone_producer

Weights = npt.NDArray[Any]


def merge_into_linear(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Gemm of a flattened Concat of a map and an upsampled one reads the two by themselves."""
    flat = node.inputs[0] if node.op_type == "Gemm" else None
    weight = node.inputs[1].const_value if flat is not None and node.inputs[1] is not None else None
    transposed = [bool(a.as_int()) if (a := node.attributes.get(n)) else False for n in ("transA", "transB")]
    if flat is None or weight is None or transposed[0]:
        return
    found = _branches(flat)
    if found is None:
        return
    high, low, order = found
    map_shape = (len(order), *_size(high))
    stored = weight.numpy() if transposed[1] else weight.numpy().T
    if stored.shape[1] != np.prod(map_shape):
        return
    by_place = np.empty((len(stored), *map_shape), stored.dtype)
    by_place[:, order] = stored.reshape(len(stored), *map_shape)
    count = len(order) - _channels(low)
    parts = (by_place[:, :count], _blocks_summed(by_place[:, count:]))
    joined = np.concatenate([part.reshape(len(stored), -1) for part in parts], axis=1)
    vectors = [inserted(node, "Flatten", [value], f"{flat.name}_{n}") for n, value in enumerate((high, low))]
    both = inserted(node, "Concat", vectors, f"{flat.name}_both", [ir.AttrInt64("axis", 1)])
    node.replace_input_with(0, both)
    joined = np.ascontiguousarray(joined if transposed[1] else joined.T)
    node.replace_input_with(1, constant(graph, node.outputs[0], "weight", joined))


def _branches(flat: ir.Value) -> tuple[ir.Value, ir.Value, Weights] | None:
    """High and low branch of what is flattened, and for every channel its place among both."""
    flatten = lone_producer(flat, "Reshape", "Flatten")
    merged = None if flatten is None else flatten.inputs[0]
    if merged is None or merged.shape is None or flat.shape is None or len(merged.shape) != 4:
        return None
    shape = known(merged.shape[1:])
    if shape is None or known(flat.shape[1:]) != [int(np.prod(shape))]:
        return None
    order = np.arange(shape[0])
    gather = lone_producer(merged, "Gather")
    if gather is not None:
        source, index = gather.inputs
        axis = gather.attributes.get("axis")
        if source is None or index is None or index.const_value is None or axis is None or axis.as_int() != 1:
            return None
        merged, order = source, index.const_value.numpy()
    concat = lone_producer(merged, "Concat")
    if concat is None or concat.attributes["axis"].as_int() != 1 or len(concat.inputs) != 2:
        return None
    high, up = concat.inputs
    low = None if up is None else _upsampled(up)
    if high is None or low is None or high.shape is None or sorted(order) != list(range(shape[0])):
        return None
    fits = [2 * n - odd for n, odd in zip(_size(low), (m % 2 for m in shape[1:]), strict=True)] == shape[1:]
    return (high, low, order) if fits else None


def _upsampled(value: ir.Value) -> ir.Value | None:
    """What ``value`` is a map of, upsampled by 2 and an odd end cropped; None if it is no such map."""
    crop = lone_producer(value, "Slice")
    source = value if crop is None else crop.inputs[0]
    resize = None if source is None else lone_producer(source, "Resize")
    if resize is None or len(resize.inputs) != 3 or (crop is not None and any(_starts(crop))):
        return None
    low, scales, mode = resize.inputs[0], resize.inputs[2], resize.attributes.get("mode")
    if low is None or low.shape is None or scales is None or scales.const_value is None:
        return None
    nearest = mode is None or mode.as_string() == "nearest"
    return low if nearest and scales.const_value.numpy().tolist() == [1, 1, 2, 2] else None


def _starts(crop: ir.Node) -> list[int]:
    starts = None if crop.inputs[1] is None else crop.inputs[1].const_value
    return [1] if starts is None else [int(n) for n in starts.numpy()]


def _size(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [int(n) for n in value.shape[2:]]  # type: ignore[arg-type]


def _channels(value: ir.Value) -> int:
    assert value.shape is not None
    return int(value.shape[1])  # type: ignore[arg-type]


def _blocks_summed(weight: Weights) -> Weights:
    """(O, C, H, W) -> (O, C, ceil(H / 2), ceil(W / 2)), the sums of blocks of 2x2."""
    for axis in (2, 3):
        weight = np.add.reduceat(weight, range(0, weight.shape[axis], 2), axis=axis)
    return weight
