"""ExecuTorch programs: .pte files for phones, lowered to XNNPACK, compared with the model in ExecuTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from octify.errors import ExportError
from octify.export.calls import shortened
from octify.export.fixed import FixedProgram, fixed_program, natively_quiet
from octify.export.formats import FORMATS
from octify.export.result import RuntimeResult
from octify.files import check_file, staged_file


def export_executorch(
    model: nn.Module, example_inputs: Tensor | Sequence[object], path: str | Path
) -> RuntimeResult:
    """Write ``model`` as a float32 ExecuTorch program for CPUs and compare it with PyTorch.

    Parameters
    ----------
    model:
        Any module; exported in eval mode with BatchNorm folded. It is not changed.
    example_inputs:
        A tensor, or a sequence of positional inputs; meta tensors are replaced by random numbers. The program
        takes their sizes only, the batch included.
    path:
        The .pte file to write. It appears when all is done and checked, or not at all.

    Raises
    ------
    ExportError
        The model does not run, or cannot be expressed in ExecuTorch.
    CheckFailed
        ExecuTorch's answers are further from the model's than the model's own rounding noise explains.
    OctifyError
        ``path`` cannot be written, or ExecuTorch is not installed.
    """
    path = Path(path)
    FORMATS[".pte"].check_installed()
    check_file(path)
    source = fixed_program(model, example_inputs)
    with staged_file(path) as staged:
        try:
            with natively_quiet():
                staged.write_bytes(_lowered(source))
                answers = _answers(staged, source)
        except Exception as error:  # ExecuTorch's own, which share no base class
            raise ExportError("ExecuTorch cannot express the model", why=shortened(error)) from error
        return source.result(path, answers, "ExecuTorch", staged.stat().st_size)


def _lowered(source: FixedProgram) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(source.program, partitioner=[XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer)


def _answers(file: Path, source: FixedProgram) -> list[Tensor]:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")
    # Outputs lie in the program's own memory.
    return [output.clone() for output in method.execute([x.contiguous() for x in source.tensors])]
