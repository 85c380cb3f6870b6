"""Options of an ONNX file, shared by ``convert`` and ``export``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from octify.errors import OctifyError
from octify.export.targets import ExportTarget

if TYPE_CHECKING:
    from octify.source import Source

BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        min=1,
        max=2**24,
        help="Fix the file's batch size at N, which makes it faster. Default: any batch size.",
    ),
]
TargetOption = Annotated[
    ExportTarget,
    typer.Option(
        "--target",
        help="The runtime that the file is for; every file computes the same. Those in -int8 are float files"
        " as quantizers should get them; octify export --int8 quantizes.",
    ),
]


@dataclass(frozen=True)
class OnnxSettings:
    """The file that ``--onnx`` writes, as typed; None on a dry run and without the option."""

    path: Path | None
    target: ExportTarget
    batch: int | None

    def check(self) -> None:
        """Refuse settings of a file that is not written. Raises OctifyError."""
        strays = {"--batch": self.batch, "--target": self.target.value}
        if self.target == ExportTarget.onnxruntime:
            del strays["--target"]
        for option, value in strays.items():
            if self.path is None and value is not None:
                raise OctifyError(
                    f"{option} is for --onnx",
                    why=f"{option} is about an ONNX file, and this run writes none",
                    hint=f"--onnx FILE {option} {value}",
                )

    def source(self, source: Source) -> Source:
        """``source`` with example inputs of the file's batch size."""
        return source if self.batch is None else of_batch(source, self.batch)


def of_batch(source: Source, batch: int) -> Source:
    """``source`` with example inputs of another batch size."""
    from octify.export.calls import with_batch

    return replace(source, example_inputs=with_batch(source.example_inputs, batch))
