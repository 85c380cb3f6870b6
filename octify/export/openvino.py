"""OpenVINO IR: an .xml file and its .bin of weights, compared with the model in OpenVINO on the CPU.

The graph is that of the ONNX file for OpenVINO (``octify.export.targets``), so that the two formats differ in
their form alone; that file is compared in onnxruntime on the way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octify.compat import tree_leaves
from octify.errors import ExportError
from octify.export.calls import Checks, as_inputs, judged, quiet, shortened
from octify.export.formats import FORMATS, files_of
from octify.export.onnx import captured, written
from octify.export.result import RuntimeResult
from octify.export.targets import ExportTarget
from octify.files import check_file, staged_file


def export_openvino(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any],
    path: str | Path,
    dynamic_batch: bool = True,
) -> RuntimeResult:
    """Write ``model`` as a float32 OpenVINO IR and compare it with PyTorch.

    Parameters
    ----------
    model:
        Any module; exported in eval mode with BatchNorm folded. It is not changed.
    example_inputs:
        A tensor, or a sequence of positional inputs; meta tensors are replaced by random numbers.
    path:
        The .xml file to write; its weights become the .bin file of the same name. They appear when all is
        done and checked, or not at all.
    dynamic_batch:
        Leave the first dimension of the inputs open. The file is then run at the example's batch size
        and at one more.

    Raises
    ------
    ExportError
        The model does not run, or cannot be expressed in ONNX or OpenVINO.
    CheckFailed
        OpenVINO's answers are further from PyTorch's than the model's own rounding noise explains.
    OctifyError
        ``path`` cannot be written, or OpenVINO is not installed.
    """
    path = Path(path)
    FORMATS[".xml"].check_installed()
    files = files_of(path)
    for file in files:
        check_file(file)
    source = captured(model, as_inputs(example_inputs), dynamic_batch)
    import openvino

    with tempfile.TemporaryDirectory() as folder, staged_file(path) as staged:
        graph = Path(folder) / "model.onnx"
        written(source, graph, ExportTarget.openvino)
        try:
            with quiet():
                openvino.save_model(openvino.convert_model(str(graph)), staged, compress_to_fp16=False)
                answers = _answers(staged, source.checks)
        except Exception as error:  # OpenVINO's own, which share no base class
            raise ExportError("OpenVINO cannot express the model", why=shortened(error)) from error
        parity = judged(source.checks, answers, "OpenVINO", path)
        size = sum((staged.parent / file.name).stat().st_size for file in files)
    return RuntimeResult.of(path, parity, tuple(source.checks), size, "OpenVINO")


def _answers(file: Path, checks: Checks) -> dict[int, list[Tensor]]:
    """Outputs of ``file`` in float32 on the CPU, by batch size."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    answers = {}
    for size, (inputs, _) in checks.items():
        arrays = [leaf.numpy() for leaf in tree_leaves(tuple(inputs)) if isinstance(leaf, Tensor)]
        result = compiled(arrays)
        answers[size] = [torch.from_numpy(result[output].copy()) for output in compiled.outputs]
    return answers
