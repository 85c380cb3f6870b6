"""Times of single operators of an octave network in onnxruntime.

An operator stands in a graph of its own, between convolutions where its neighbours in a network would
be: onnxruntime keeps values between convolutions in a blocked layout, and an operator that it has in
that layout takes another time there. Only the operator's own kernel time counts (onnxruntime's
profiler), not what the neighbours or the change of layout at the ends take.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from octify.latency.runtime import session_of

Kind = Literal["conv", "conv_transpose", "pool", "clip", "up", "merge"]
CALLS = 25
MIDDLE = "middle"  # name of the timed node, whose neighbours are of its own type
_NAMES: dict[Kind, frozenset[str]] = {
    "conv": frozenset({"Conv", "FusedConv"}),
    "conv_transpose": frozenset({"ConvTranspose"}),
    "pool": frozenset({"AveragePool", "Conv", "FusedConv"}),
    "clip": frozenset({"Conv", "FusedConv", "Clip"}),
    "up": frozenset({"Upsample", "Resize"}),
    "merge": frozenset({"Upsample", "Resize", "Concat", "ReorderInput", "ReorderOutput"}),
}


@dataclass(frozen=True)
class Operator:
    """One operator at one size.

    kind:
        ``pool`` is a 2x average pooling as the exporter writes it, ``clip`` ReLU6 of a sum, ``up`` a nearest
        upsampling by 2 that a convolution's result is added to, ``merge`` the same and a concatenation
        with half as many channels at full size.
    size:
        Spatial size of the input map.
    pads:
        Padding in the order of ONNX: all beginnings, then all ends.
    """

    kind: Kind
    batch: int
    channels_in: int
    channels_out: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1

    @property
    def key(self) -> str:
        """Key of the operator in a table."""
        kernel = "x".join(map(str, self.kernel))
        details = [f"k{kernel}", *(f"{n}{v}" for n, v in self._geometry())] if self.kernel else []
        size = "x".join(map(str, (self.batch, self.channels_in, *self.size)))
        return ",".join([self.kind, size, str(self.channels_out), *details])

    def _geometry(self) -> list[tuple[str, str]]:
        lists = (("s", self.stride), ("d", self.dilation), ("p", self.pads))
        return [*((name, "x".join(map(str, values))) for name, values in lists), ("g", str(self.groups))]


def milliseconds(op: Operator, threads: int) -> float:
    """Milliseconds per call of ``op``: the lower quartile, since other load can only add time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "op.onnx"
        onnx.save(graph(op), path)
        session = session_of(path, threads, profile=str(Path(folder) / "profile"))
        feed = _feed(session)
        for _ in range(CALLS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, list[int]] = defaultdict(list)
    for event in events:
        name = event["name"]
        beside = op.kind in ("pool", "clip") and not name.startswith(MIDDLE)
        is_kernel = name.endswith("_kernel_time") and not beside
        if is_kernel and event.get("args", {}).get("op_name") in _NAMES[op.kind]:
            spent[name].append(event["dur"])
    return sum(statistics.quantiles(durations[1:], n=4)[0] for durations in spent.values()) / 1000


def _feed(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {v.name: random.standard_normal(v.shape).astype(np.float32) for v in session.get_inputs()}


class _Builder:
    """Builder of a small graph: collects its nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def weight(self, name: str, *shape: int) -> str:
        values = self._random.standard_normal(shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def near(self, x: str, output: str, channels: int, dims: int) -> str:
        """Add a cheap convolution beside the operator, so that it sees the layout of a network."""
        weight = self.weight(f"{output}_w", channels, 1, *[1] * dims)
        return self.add("Conv", [x, weight], output, group=channels, kernel_shape=[1] * dims)

    def pooled(self, x: str, channels: int, dims: int) -> str:
        window = {"kernel_shape": [2] * dims, "strides": [2] * dims}
        if dims != 2:
            return self.add("AveragePool", [x], MIDDLE, **window)
        weight = self.weight(f"{MIDDLE}_w", channels, 1, 2, 2)
        return self.add("Conv", [x, weight], MIDDLE, group=channels, **window)

    def clipped(self, x: str) -> str:
        for name, value in (("low", 0.0), ("high", 6.0)):
            self.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return self.add("Clip", [x, "low", "high"], f"{x}_clip")

    def doubled(self, x: str, output: str, dims: int) -> str:
        scales = numpy_helper.from_array(np.array([1, 1, *[2] * dims], np.float32), f"{output}_scales")
        self.weights.append(scales)
        attributes = {"mode": "nearest", "nearest_mode": "floor"}
        return self.add(
            "Resize",
            [x, "", scales.name],
            output,
            coordinate_transformation_mode="asymmetric",
            **attributes,
        )


def graph(op: Operator) -> onnx.ModelProto:
    """The operator between its neighbours, as an ONNX model with inputs of fixed shapes."""
    build, dims = _Builder(), len(op.size)
    inputs = {"x": (op.batch, op.channels_in, *op.size)}
    if op.kind in ("conv", "conv_transpose"):
        transposed = op.kind == "conv_transpose"
        first, second = (op.channels_in, op.channels_out) if transposed else (op.channels_out, op.channels_in)
        weight = build.weight("w", first, second // op.groups, *op.kernel)
        bias = build.weight("b", op.channels_out)
        build.add(
            "ConvTranspose" if transposed else "Conv",
            ["x", weight, bias],
            "y",
            group=op.groups,
            kernel_shape=op.kernel,
            strides=op.stride,
            dilations=op.dilation,
            pads=op.pads,
        )
    elif op.kind == "pool":
        x = build.near("x", "near_x", op.channels_in, dims)
        build.near(build.pooled(x, op.channels_in, dims), "y", op.channels_in, dims)
    elif op.kind == "clip":
        x = build.near("x", "near_x", op.channels_in, dims)
        x = build.clipped(build.near(x, MIDDLE, op.channels_in, dims))
        build.near(x, "y", op.channels_in, dims)
    else:
        big = tuple(2 * n for n in op.size)
        inputs["z"] = (op.batch, op.channels_in, *big)
        x = build.near("x", "near_x", op.channels_in, dims)
        z = build.near("z", "near_z", op.channels_in, dims)
        x = build.doubled(x, "doubled", dims)
        if op.kind == "up":
            build.add("Add", [z, x], "y")
        else:
            both = build.add("Concat", [z, x], "both", axis=1)
            build.near(both, "y", 2 * op.channels_in, dims)
    whole = helper.make_graph(
        build.nodes,
        "op",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        build.weights,
    )
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
