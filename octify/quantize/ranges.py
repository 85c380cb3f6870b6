"""Ranges of values that a Concat puts side by side: one for all, so that it copies bytes.

A quantized Concat whose inputs have the scale of its output copies; any other looks every value up in a
table. Its output has the range of all its inputs together, so that giving them this range costs nothing at
the Concat. An input that is read elsewhere too loses precision there; it keeps its own range if that is
less than half of the common one, a bit.

The quantizer drops ReLU and Clip: what they cut off lies outside the range of their output. Such a range is
never widened to where they cut.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping

import onnx_ir as ir

Range = tuple[float, float]

# Operators whose output has the scale of their first input, as onnxruntime quantizes them.
_SAME = frozenset({"Resize", "MaxPool", "Pad", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_LEAST = 0.5  # of the common range


def shared(graph: ir.Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """``ranges`` by name of value, those of the inputs and outputs of each Concat made one."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while name in parents:
            name = parents[name]
        return name

    readers = Counter(value.name for node in graph for value in node.inputs if value is not None)
    origins = {
        str(node.outputs[0].name): str(node.inputs[0].name)
        for node in graph
        if node.op_type in _SAME and node.inputs[0] is not None
    }
    for node in graph:
        if node.op_type != "Concat":
            continue
        output = str(node.outputs[0].name)
        names = [_origin(str(value.name), origins) for value in node.inputs if value is not None]
        if not all(name in ranges for name in [output, *names]):
            continue
        common = _width(_union([ranges[name] for name in [output, *names]]))
        for name in names:
            alone = readers[name] == 1
            if (alone or _width(ranges[name]) >= _LEAST * common) and root(name) != root(output):
                parents[root(name)] = root(output)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in ranges:
        groups[root(_origin(name, origins))].append(name)
    makers = {str(node.outputs[0].name): node for node in graph if len(node.outputs) == 1}
    result = {}
    for members in groups.values():
        common_range = _union([ranges[member] for member in members])
        for name in members:
            low, high = _limits(makers.get(_origin(name, origins)), ranges[name])
            fits = low <= common_range[0] and common_range[1] <= high
            result[name] = common_range if fits else ranges[name]
    return result


def _limits(maker: ir.Node | None, own: Range) -> Range:
    """Where ``maker`` cuts off; its ``own`` range where that is computed."""
    if maker is not None and maker.op_type == "Relu":
        return 0.0, math.inf
    if maker is None or maker.op_type != "Clip":
        return -math.inf, math.inf
    ends = [-math.inf, math.inf]
    for index, value in enumerate(maker.inputs[1:3]):
        if value is not None:
            ends[index] = own[index] if value.const_value is None else float(value.const_value.numpy().item())
    return ends[0], ends[1]


def _origin(name: str, origins: Mapping[str, str]) -> str:
    """The value that ``name`` has its scale from."""
    while name in origins:
        name = origins[name]
    return name


def _union(ranges: list[Range]) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _width(range_: Range) -> float:
    return range_[1] - range_[0]
