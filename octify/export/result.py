"""Result of every exporter: the file, and its agreement with the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octify.compare.rounding import Parity


@dataclass(frozen=True)
class FileResult:
    """Exported file, and the agreement of its outputs with the PyTorch model's.

    ``max_abs_error``, ``max_rel_error`` (relative to the output's largest value) and ``tolerance`` (absolute)
    are those of the closest call among all outputs at all ``batch_sizes``. ``bytes`` is the file's size.
    """

    path: Path
    max_abs_error: float
    max_rel_error: float
    tolerance: float
    passed: bool
    batch_sizes: tuple[int, ...]
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self) | {"path": str(self.path), "batch_sizes": list(self.batch_sizes)}


class ProgramResult(FileResult):
    """A PyTorch program."""


@dataclass(frozen=True)
class RuntimeResult(FileResult):
    """A file in the format of one runtime, and what computed the answers that were compared.

    ``compared_in`` is that runtime; for Core ML, which runs on macOS alone, it is ``"PyTorch"``: the program
    that was converted was compared, the package was not run.
    """

    compared_in: str

    @classmethod
    def of(
        cls, path: Path, parity: Parity, batch_sizes: tuple[int, ...], size: int, compared_in: str
    ) -> RuntimeResult:
        """The result of a file of ``size`` bytes."""
        return cls(
            path,
            parity.max_abs_error,
            parity.max_rel_error,
            parity.tolerance,
            parity.passed,
            batch_sizes,
            size,
            compared_in,
        )


@dataclass(frozen=True)
class ExportResult(FileResult):
    """An ONNX file, compared in onnxruntime; ``ops`` is the number of nodes by operator.

    ``target`` is the runtime that its graph was written for.
    """

    opset: int
    ops: dict[str, int]
    target: str = "onnxruntime"
