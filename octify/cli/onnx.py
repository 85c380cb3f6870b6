"""The ONNX step of ``convert`` and ``export``, and how its comparison with PyTorch is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octify.cli.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

    from octify.export.onnx import ExportResult


@dataclass(frozen=True)
class Exported:
    """An ONNX file in its place, and how it compared."""

    path: Path
    result: ExportResult

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {"path": str(self.path)} | comparison(self.result)

    def lines(self) -> list[str]:
        """As a person reads it."""
        result = self.result
        sizes = ", ".join(map(str, result.batch_sizes))
        return [
            f"wrote {self.path}: {result.bytes:,} bytes, opset {result.opset}",
            f"onnxruntime against PyTorch, batch sizes {sizes}: "
            f"maximum error {result.max_abs_error:.3g} (allowed {result.tolerance:.3g})",
        ]


def write_onnx(
    run: Session, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, dynamic_batch: bool = True
) -> Exported:
    """Export ``model`` to ``path``; CheckFailed, and no file, when onnxruntime disagrees with PyTorch."""
    from octify.api import export_onnx

    run.progress(f"exporting {path.name}")
    return Exported(path, export_onnx(model, inputs, path, dynamic_batch=dynamic_batch))


def comparison(result: ExportResult) -> dict[str, Any]:
    """The numbers of an export, for JSON."""
    return {
        "bytes": result.bytes,
        "opset": result.opset,
        "batch_sizes": list(result.batch_sizes),
        "max_abs_error": result.max_abs_error,
        "max_rel_error": result.max_rel_error,
        "tolerance": result.tolerance,
        "passed": result.passed,
        "ops": dict(result.ops),
    }
