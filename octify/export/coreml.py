"""Core ML: .mlpackage folders, converted by coremltools. Core ML runs on macOS alone: no package is run here.

What is compared with the model is the program that coremltools gets, decomposed, in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from octify.compat import tree_leaves
from octify.errors import ExportError
from octify.export.calls import shortened
from octify.export.fixed import fixed_program, natively_quiet
from octify.export.formats import FORMATS
from octify.export.result import RuntimeResult
from octify.files import check_package, staged_package


def export_coreml(
    model: nn.Module, example_inputs: Tensor | Sequence[object], path: str | Path
) -> RuntimeResult:
    """Write ``model`` as a float32 Core ML package (an ML program, iOS 16 and macOS 13 or later).

    The package is not run: only macOS can. The program that it is converted from is compared.

    Parameters
    ----------
    model:
        Any module; exported in eval mode with BatchNorm folded. It is not changed.
    example_inputs:
        A tensor, or a sequence of positional inputs; meta tensors are replaced by random numbers. The package
        takes their sizes only, the batch included.
    path:
        The .mlpackage folder to write. It appears when all is done and checked, or not at
        all. A package there is replaced whole; no other folder is.

    Raises
    ------
    ExportError
        The model does not run, or cannot be expressed in Core ML.
    CheckFailed
        The captured program's answers are further from the model's than its own rounding noise explains.
    OctifyError
        ``path`` cannot be written, or coremltools is not installed.
    """
    path = Path(path)
    FORMATS[".mlpackage"].check_installed()
    check_package(path)
    source = fixed_program(model, example_inputs)
    with staged_package(path) as staged:
        try:
            with natively_quiet(), torch.no_grad():
                import coremltools

                program = _without_aliases(source.program.run_decompositions({}))
                answers = [y for y in tree_leaves(program.module()(*source.inputs)) if isinstance(y, Tensor)]
                coremltools.convert(
                    program,
                    minimum_deployment_target=coremltools.target.iOS16,
                    compute_precision=coremltools.precision.FLOAT32,
                    skip_model_load=True,
                ).save(str(staged))
        except Exception as error:  # coremltools' own, which share no base class
            raise ExportError("Core ML cannot express the model", why=shortened(error)) from error
        size = sum(file.stat().st_size for file in staged.rglob("*") if file.is_file())
        return source.result(path, answers, "PyTorch", size)


def _without_aliases(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Remove aliases, which slices of a whole map leave behind and coremltools does not know, in place."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.alias.default and graph.output_node() not in node.users:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    program.graph_module.recompile()
    return program
