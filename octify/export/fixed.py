"""A model as a program of fixed sizes, for the runtimes of phones: what they convert and must answer."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octify.compat import tree_leaves
from octify.export.calls import Checks, as_inputs, expected_outputs, judged, quiet
from octify.export.fold import fold_batchnorm
from octify.export.plain import plain
from octify.export.program import captured
from octify.export.result import RuntimeResult
from octify.export.split import split_by_convolution


@dataclass(frozen=True)
class FixedProgram:
    """A captured program whose sizes are those of ``inputs``, and the call that a file of it must answer."""

    program: torch.export.ExportedProgram
    inputs: tuple[Any, ...]
    checks: Checks

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors among the inputs, in order."""
        return [leaf for leaf in tree_leaves(self.inputs) if isinstance(leaf, Tensor)]

    def result(self, path: Path, answers: Sequence[Tensor], runtime: str, size: int) -> RuntimeResult:
        """Compare ``answers`` with the model's. Raises CheckFailed on a mismatch."""
        (batch,) = self.checks
        parity = judged(self.checks, {batch: answers}, runtime, path)
        return RuntimeResult.of(path, parity, (batch,), size, runtime)


def fixed_program(model: nn.Module, example_inputs: Tensor | Sequence[Any]) -> FixedProgram:
    """Capture ``model`` at the sizes of the inputs, BatchNorm folded. Raises ExportError."""
    inputs = as_inputs(example_inputs)
    reference = copy.deepcopy(model).cpu().float().eval()
    with quiet():
        checks = expected_outputs(reference, inputs, dynamic_batch=False)
        ready = fold_batchnorm(split_by_convolution(reference), inputs)
        program = captured(plain(ready, inputs), inputs, dynamic_batch=False)
    return FixedProgram(program, inputs, checks)


@contextlib.contextmanager
def natively_quiet() -> Iterator[None]:
    """Suppress what Python and compiled code write to the standard streams."""
    kept: dict[int, int] = {}
    with quiet():
        try:
            with Path(os.devnull).open("wb") as nowhere:
                for stream in (1, 2):
                    with contextlib.suppress(OSError):  # a stream that is closed
                        kept[stream] = os.dup(stream)
                        os.dup2(nowhere.fileno(), stream)
            yield
        finally:
            for stream, copied in kept.items():
                os.dup2(copied, stream)
                os.close(copied)
