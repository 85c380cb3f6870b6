"""PyTorch programs (``torch.export``): files that run in PyTorch without octify and without the model's code.

    program = torch.export.load("net.pt2").module()
    y = program(x)

For speed, compile it with its weights frozen (``torch.compile(program)`` and the first call under
Inductor's ``freezing`` option): convolutions are fewer, and nothing looks up modules.

The file gets its name only if what is loaded from it answers as the model does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octify.compat import tree_leaves, tree_map_only
from octify.errors import ExportError
from octify.export.calls import (
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
from octify.export.fold import fold_batchnorm
from octify.export.merge import merge_low_paths
from octify.export.plain import plain
from octify.export.result import ProgramResult
from octify.files import check_file, staged_file
from octify.trace.tracer import user_line


def export_program(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any],
    path: str | Path,
    dynamic_batch: bool = True,
) -> ProgramResult:
    """Write ``model`` as a float32 PyTorch program (.pt2) and compare it with the model.

    Parameters
    ----------
    model:
        Any module; exported in eval mode with BatchNorm folded and low paths merged. It is not changed.
    example_inputs:
        A tensor, or a sequence of positional inputs; meta tensors are replaced by random numbers. But for
        the batch, the program takes these sizes only.
    path:
        The file to write. It appears when all is done and checked, or not at all.
    dynamic_batch:
        Leave the first dimension of the inputs open. The file is then run at the example's batch size
        and at one more.

    Raises
    ------
    ExportError
        The model does not run, or ``torch.export`` cannot capture it.
    CheckFailed
        The program's answers are further from the model's than its own rounding noise explains.
    OctifyError
        ``path`` cannot be written.
    """
    path = Path(path)
    check_file(path)
    inputs = as_inputs(example_inputs)
    reference = copy.deepcopy(model).cpu().float().eval()
    with quiet():
        checks = expected_outputs(reference, inputs, dynamic_batch)
        ready = merge_low_paths(fold_batchnorm(reference, inputs))
        program = captured(plain(ready, inputs), inputs, dynamic_batch)
        with staged_file(path) as staged:
            with staged.open("wb") as file:
                torch.export.save(program, file)
            loaded = torch.export.load(str(staged)).module()
            answers = {size: _tensors(loaded, resized) for size, (resized, _) in checks.items()}
            parity = judged(checks, answers, "torch.export", path)
            written = staged.stat().st_size
    return ProgramResult(
        path,
        parity.max_abs_error,
        parity.max_rel_error,
        parity.tolerance,
        parity.passed,
        tuple(checks),
        written,
    )


def captured(model: nn.Module, inputs: tuple[Any, ...], dynamic_batch: bool) -> torch.export.ExportedProgram:
    """Capture ``torch.export``'s program. Raises ExportError when that fails."""
    path = next((path for path, _ in model.named_modules() if any(map(iskeyword, path.split(".")))), None)
    if path is not None:
        raise ExportError(
            "a PyTorch program cannot hold a module whose name is a keyword of Python",
            where=path,
            why="whoever loads it gets code that names the module",
            hint="name it otherwise in the model, or export an ONNX file",
        )
    batch = batch_size(inputs)
    dynamic = dynamic_batch and batch is not None
    # A dimension of 1 is taken for a constant.
    sample = with_batch(inputs, 2) if dynamic and batch == 1 else inputs
    shapes = dynamic_shapes(sample) if dynamic else None
    try:
        with torch.no_grad():
            return torch.export.export(
                model.requires_grad_(False), sample, dynamic_shapes=shapes, strict=False
            )
    except Exception as error:
        if dynamic and captures(model, inputs, None):
            raise fixed_batch(error) from error
        raise ExportError(
            "torch.export cannot capture the model", where=user_line(root(error)), why=shortened(error)
        ) from error


def _tensors(program: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    """All tensors in the output of ``program``, in order."""
    own = tree_map_only(Tensor, torch.clone, tuple(inputs))
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(program(*own)) if isinstance(leaf, Tensor)]
