"""LiteRT (formerly TensorFlow Lite): .tflite files, compared with the model in LiteRT's interpreter.

Inputs and outputs keep PyTorch's order of dimensions (N, C, H, W); litert-torch changes it inside the graph.
Its nearest upsampling to a size that is no multiple (``F.interpolate(x, size=...)``) picks other positions
than PyTorch's; the comparison refuses such a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from octify.errors import ExportError
from octify.export.calls import shortened
from octify.export.fixed import FixedProgram, fixed_program, natively_quiet
from octify.export.formats import FORMATS
from octify.export.result import RuntimeResult
from octify.files import check_file, staged_file


def export_litert(
    model: nn.Module, example_inputs: Tensor | Sequence[object], path: str | Path
) -> RuntimeResult:
    """Write ``model`` as a float32 LiteRT file and compare it with PyTorch.

    Parameters
    ----------
    model:
        Any module; exported in eval mode with BatchNorm folded. It is not changed.
    example_inputs:
        A tensor, or a sequence of positional inputs; meta tensors are replaced by random numbers. The file
        takes their sizes only, the batch included.
    path:
        The .tflite file to write. It appears when all is done and checked, or not at all.

    Raises
    ------
    ExportError
        The model does not run, or cannot be expressed in LiteRT.
    CheckFailed
        LiteRT's answers are further from the model's than the model's own rounding noise explains.
    OctifyError
        ``path`` cannot be written, or litert-torch is not installed.
    """
    path = Path(path)
    FORMATS[".tflite"].check_installed()
    check_file(path)
    source = fixed_program(model, example_inputs)
    with staged_file(path) as staged:
        try:
            with natively_quiet():
                import litert_torch

                litert_torch.convert(source.program.module(), source.inputs).export(str(staged))
                answers = _answers(staged, source)
        except Exception as error:  # litert-torch's own, which share no base class
            raise ExportError("LiteRT cannot express the model", why=shortened(error)) from error
        return source.result(path, answers, "LiteRT", staged.stat().st_size)


def _answers(file: Path, source: FixedProgram) -> list[Tensor]:
    """Outputs of the file's signature, whose arguments and results are numbered."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(file), num_threads=torch.get_num_threads()).get_signature_runner()
    arguments = {f"args_{number}": tensor.numpy() for number, tensor in enumerate(source.tensors)}
    outputs = run(**arguments)
    return [torch.from_numpy(np.array(outputs[f"output_{number}"])) for number in range(len(outputs))]
