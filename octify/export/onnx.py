"""ONNX files that were compared with the PyTorch model they come from.

``torch.export`` captures the folded model, PyTorch's exporter and onnxscript's optimizer turn it into
ONNX, ``octify.export.deploy`` makes it fit to deploy. onnxruntime then runs the file, and it gets its
name only if its answers are the model's (``octify.compare.rounding``).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

from octify.compare.rounding import Parity
from octify.compat import tree_leaves
from octify.errors import ExportError
from octify.export.calls import (
    Checks,
    as_inputs,
    batch_size,
    captures,
    dynamic_shapes,
    expected_outputs,
    fixed_batch,
    judged,
    quiet,
    root,
    shortened,
    with_batch,
)
from octify.export.deploy import constants_in_order, make_deployable
from octify.export.fold import fold_batchnorm
from octify.export.plain import plain
from octify.export.result import ExportResult
from octify.export.split import split_by_convolution
from octify.export.targets import ExportTarget, target_named
from octify.files import check_file, staged_file
from octify.trace.keywords import any_names
from octify.trace.tracer import user_line

_LARGEST_FILE = 2**31 - 2**20  # protobuf's limit, less a little for the graph


def export_onnx(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any],
    path: str | Path,
    dynamic_batch: bool = True,
    opset: int | None = None,
    *,
    target: str = "onnxruntime",
) -> ExportResult:
    """Write ``model`` as one self-contained float32 ONNX file and compare it with PyTorch.

    Parameters
    ----------
    model:
        Any module; exported in eval mode with BatchNorm folded. It is not changed.
    example_inputs:
        A tensor, or a sequence of positional inputs; meta tensors are replaced by random numbers.
    path:
        The file to write. It appears when all is done and checked, or not at all.
    dynamic_batch:
        Leave the first dimension of the inputs open. The file is then run at the example's batch size
        and at one more.
    opset:
        ONNX opset version; the exporter's own choice if None.
    target:
        The runtime that the file is for (``octify.export.targets``): ``"onnxruntime"``,
        ``"openvino"``, ``"ncnn"``, or, to be quantized for them, ``"onnxruntime-int8"`` or
        ``"openvino-int8"``. Every file computes the same; another runtime takes longer for it.

    Raises
    ------
    ExportError
        The model does not run, or cannot be expressed in ONNX.
    CheckFailed
        onnxruntime's answers are further from PyTorch's than the model's own rounding noise explains.
    OctifyError
        ``path`` cannot be written, or there is no such target.
    """
    path, runtime = Path(path), target_named(target)
    check_file(path)
    return written(captured(model, as_inputs(example_inputs), dynamic_batch, opset), path, runtime)


@dataclass(frozen=True)
class Captured:
    """A model as the exporter writes it, and the calls that a file of it must answer as the model does."""

    program: ir.Model
    checks: Checks

    def copy(self) -> Captured:
        """A second one, whose graph is another."""
        return Captured(ir.from_proto(ir.to_proto(self.program)), self.checks)


def captured(
    model: nn.Module, inputs: tuple[Any, ...], dynamic_batch: bool, opset: int | None = None
) -> Captured:
    """Capture ``model``, BatchNorm folded, and compute its answers. Raises ExportError."""
    reference = copy.deepcopy(model).cpu().float().eval()
    with quiet():
        checks = expected_outputs(reference, inputs, dynamic_batch)
        ready = fold_batchnorm(split_by_convolution(copy.deepcopy(reference)), inputs)
        program = _to_onnx(plain(ready, inputs), inputs, dynamic_batch, opset)
        constants_in_order(program)
    return Captured(program, checks)


def written(source: Captured, path: Path, target: ExportTarget) -> ExportResult:
    """Write ``source`` for ``target``, its graph changed in place, and compare the file's answers.

    Raises ExportError or CheckFailed, and then there is no file.
    """
    program, checks = source.program, source.checks
    with quiet():
        make_deployable(program, target)
    _name_outputs(program.graph, next(iter(checks.values()))[1].names)
    with staged_file(path) as staged:
        _save(program, staged)
        parity = _check(staged, path, checks)
        size = staged.stat().st_size
    return ExportResult(
        path=path,
        max_abs_error=parity.max_abs_error,
        max_rel_error=parity.max_rel_error,
        tolerance=parity.tolerance,
        passed=parity.passed,
        batch_sizes=tuple(checks),
        opset=program.opset_imports[""],
        bytes=size,
        ops=dict(Counter(node.op_type for node in program.graph).most_common()),
        target=target.value,
    )


def _to_onnx(model: nn.Module, inputs: tuple[Any, ...], dynamic_batch: bool, opset: int | None) -> ir.Model:
    """Run PyTorch's exporter. An open batch dimension that becomes fixed is an error."""
    batch = batch_size(inputs)
    dynamic = dynamic_batch and batch is not None
    # torch.export takes a dimension of 1 for a constant.
    sample = with_batch(inputs, 2) if dynamic and batch == 1 else inputs
    shapes = dynamic_shapes(sample) if dynamic else None
    try:
        with any_names():
            program = torch.onnx.export(
                model,
                sample,
                dynamo=True,
                dynamic_shapes=shapes,
                opset_version=opset,
                verbose=False,
                optimize=True,
            )
    except Exception as error:
        if dynamic and not captures(model, sample, shapes) and captures(model, inputs, None):
            raise fixed_batch(error) from error
        raise ExportError(
            "the model cannot be exported to ONNX", where=user_line(root(error)), why=shortened(error)
        ) from error
    assert program is not None
    exported: ir.Model = program.model
    if dynamic and not any(
        value.shape and not isinstance(value.shape[0], int) for value in exported.graph.inputs
    ):
        raise fixed_batch(None)
    return exported


def _name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Name the outputs as the model does; a name already in use stays with its owner."""
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    taken |= {value.name for node in graph for value in node.outputs}
    if len(names) != len(graph.outputs) or len({id(value) for value in graph.outputs}) != len(names):
        return  # the comparison will say what is the matter
    for value, name in zip(graph.outputs, names, strict=True):
        if name not in taken and value.producer() is not None:
            value.name = name


def _save(program: ir.Model, path: Path) -> None:
    tensors = [value.const_value for value in program.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    if size > _LARGEST_FILE:
        raise ExportError(f"the model's weights take {size:,} bytes", why="an ONNX file holds at most 2 GiB")
    ir.save(program, path)


def _check(file: Path, path: Path, checks: Checks) -> Parity:
    """Run ``file`` in onnxruntime on every check. Raises CheckFailed on a mismatch."""
    try:
        answers = dict(zip(checks, run_onnx(file, *(inputs for inputs, _ in checks.values())), strict=True))
    except Exception as error:  # onnxruntime's own, which share no base class
        raise ExportError("onnxruntime does not run the exported file", why=shortened(error)) from error
    return judged(checks, answers, "onnxruntime", path)


def run_onnx(file: Path, *calls: Sequence[Any]) -> list[list[Tensor]]:
    """Compute ``file``'s outputs in onnxruntime on the CPU for every call (its tensors, in order)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    answers = []
    for inputs in calls:
        tensors = [x for x in tree_leaves(tuple(inputs)) if isinstance(x, Tensor)]
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        answers.append([torch.from_numpy(np.asarray(y)) for y in session.run(None, feed)])
    return answers
