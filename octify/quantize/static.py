"""Static quantization of an ONNX file to int8 by onnxruntime: QDQ, weights per channel, activations uint8.

The library measures ranges and quantizes. What octave files need is done on the graph: odd pooling by padding
and convolutions before (``octify.export.oddpool``), common ranges where values are put side by side
(``ranges``), and upsampling by copies of bytes behind (``copies``).
"""
# mypy: allow-untyped-calls
# (onnxscript's ``rule()`` has no annotations.)

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorData,
    TensorsData,
    create_calibrator,
)
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from torch import Tensor

from octify.compat import tree_leaves
from octify.errors import ExportError
from octify.export.calls import shortened
from octify.export.targets import ExportTarget
from octify.quantize.copies import UpsampleByCopies
from octify.quantize.ranges import Range, shared

Feed = dict[str, np.ndarray[Any, Any]]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def quantized(
    file: Path,
    path: Path,
    batches: Sequence[Sequence[Any]],
    target: ExportTarget,
    *,
    reduce_range: bool = False,
) -> Path:
    """Write the float ``file`` in int8 to ``path``.

    Parameters
    ----------
    batches:
        Inputs to measure ranges on, each a tuple of the file's tensors, in order.
    target:
        What the file is for: with ``onnxruntime-int8`` it upsamples by copies of bytes.
    reduce_range:
        Weights of 7 bits. Processors without VNNI add up products of 8 bits in 16, which overflow.

    Raises ExportError when onnxruntime cannot quantize the file.
    """
    names = [value.name for value in onnx.load(file, load_external_data=False).graph.input]
    feeds = [feed_of(names, batch) for batch in batches]
    try:
        with _quiet():
            model = _quantize(file, feeds, reduce_range)
    except Exception as error:  # the quantizer's own, which share no base class
        raise ExportError("onnxruntime cannot quantize the file", why=shortened(error)) from error
    program = ir.from_proto(model)
    if not any(node.op_type == "QuantizeLinear" for node in program.graph):
        raise ExportError("nothing in the file can be quantized", why="no operator of it has an int8 form")
    if target is ExportTarget.onnxruntime_int8:
        UpsampleByCopies.rule().apply_to_model(program)
    for clean_up in (passes.RemoveUnusedNodesPass(), passes.ClearMetadataAndDocStringPass()):
        clean_up(program)
    ir.save(program, path)
    return path


def feed_of(names: Sequence[str], batch: Sequence[Any]) -> Feed:
    """The tensors of ``batch`` by the file's names of its inputs."""
    tensors = [x for x in tree_leaves(tuple(batch)) if isinstance(x, Tensor)]
    return {
        name: np.ascontiguousarray(x.detach().cpu().numpy()) for name, x in zip(names, tensors, strict=True)
    }


def _quantize(file: Path, feeds: Sequence[Feed], reduce_range: bool) -> onnx.ModelProto:
    operators = sorted({*QDQRegistry, *QLinearOpsRegistry})
    with tempfile.TemporaryDirectory() as folder:
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(file, operators, augmented, CalibrationMethod.MinMax)
        calibrator.collect_data(_Reader(feeds))
        measured = calibrator.compute_data()
        del calibrator  # it holds the augmented file, which goes with its folder
    model = onnx.load(file)
    graph = ir.from_proto(model).graph
    ranges = shared(graph, {name: _range(data) for name, data in measured.items()})
    common = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        True,  # per channel
        reduce_range,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, common),
        [],
        [],
        operators,
        {},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    proto: onnx.ModelProto = quantizer.model.model
    return onnx.shape_inference.infer_shapes(proto)


def _range(data: TensorData) -> Range:
    low, high = (float(np.asarray(end).item()) for end in data.range_value)
    return low, high


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's advice (pre-processing, which the export has done)."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
