"""Times of single operators of an octave network in OpenVINO, by its own counters.

The graphs are those of ``octify.latency.operators.primitives``, but for pooling, which files for OpenVINO
have as such. OpenVINO fuses additions and activations, ReLU6 of a sum too, into the convolution in front.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from octify.latency.openvino import compiled
from octify.latency.operators.primitives import CALLS, MIDDLE, Kind, Operator, graph

_TYPES: Mapping[Kind, frozenset[str]] = {
    "conv": frozenset({"Convolution", "GroupConvolution"}),
    "conv_transpose": frozenset({"ConvolutionBackpropData", "GroupConvolutionBackpropData", "Deconvolution"}),
    "pool": frozenset({"AvgPool", "Pooling"}),
    "up": frozenset({"Interpolate"}),
    "merge": frozenset({"Interpolate", "Concat"}),
}


def milliseconds(op: Operator, threads: int) -> float:
    """Milliseconds per call of ``op``: the lower quartile, since other load can only add time."""
    if op.kind == "clip":  # fused, always
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "op.onnx"
        onnx.save(_averaging(graph(op)), path)
        model = compiled(path, threads, counting=True)
    request = model.create_infer_request()
    random = np.random.default_rng(0)
    feed = [random.standard_normal(tuple(port.shape)).astype(np.float32) for port in model.inputs]
    spent: dict[str, list[float]] = defaultdict(list)
    for _ in range(CALLS):
        request.infer(feed)
        for node in request.get_profiling_info():
            if node.node_type in _TYPES[op.kind]:
                spent[node.node_name].append(1000 * node.real_time.total_seconds())
    return sum(statistics.quantiles(durations[1:], n=4)[0] for durations in spent.values())


def _averaging(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with average pooling in place of the depthwise convolution that does the same."""
    for node in model.graph.node:
        weights = {w.name for w in model.graph.initializer}
        if node.name == MIDDLE and node.op_type == "Conv" and f"{MIDDLE}_w" in weights:
            window = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "group"}
            node.CopyFrom(
                helper.make_node("AveragePool", node.input[:1], list(node.output), name=MIDDLE, **window)
            )
    return model
