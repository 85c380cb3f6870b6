"""The export step of ``convert`` and ``export``, and the report of its comparison with the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octify.cli.options.calibration import inputs_of, warnings_of
from octify.cli.session import Session
from octify.export.formats import files_of, format_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from octify.cli.options.int8 import Int8Settings
    from octify.export import FileResult
    from octify.int8 import Int8Result
    from octify.source import Source


@dataclass(frozen=True)
class Exported:
    """An exported file: its comparison, its kind, and what was compared."""

    result: FileResult
    what: str
    compared: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as ``--json`` prints it."""
        return self.result.to_dict()

    def lines(self) -> list[str]:
        """Lines of text for the terminal."""
        result = self.result
        sizes = ", ".join(map(str, result.batch_sizes))
        return [
            f"wrote {result.path}: {result.bytes:,} bytes{self.what}",
            f"{self.compared}, batch sizes {sizes}: "
            f"maximum error {result.max_abs_error:.3g} (allowed {result.tolerance:.3g})",
        ]


def write_onnx(
    run: Session,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    *,
    dynamic_batch: bool = True,
    target: str = "onnxruntime",
) -> Exported:
    """Export ``model`` to ``path``; CheckFailed, and no file, when onnxruntime disagrees with PyTorch."""
    from octify.export import export_onnx

    run.progress(f"exporting {path.name}")
    result = export_onnx(model, inputs, path, dynamic_batch=dynamic_batch, target=target)
    return Exported(result, f", opset {result.opset}, for {target}", "onnxruntime against PyTorch")


def write_file(
    run: Session, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, dynamic_batch: bool = True
) -> Exported:
    """Export ``model`` in the format that ``path`` names by its suffix; no file when the comparison fails."""
    from octify import export

    run.progress(f"exporting {path.name}")
    match format_of(path).key:
        case "program":
            result: FileResult = export.export_program(model, inputs, path, dynamic_batch=dynamic_batch)
            note, compared = "; torch.export.load reads it, without octify", "the program against the model"
        case "openvino":
            result = export.export_openvino(model, inputs, path, dynamic_batch=dynamic_batch)
            note, compared = f" with {files_of(path)[1].name}", "OpenVINO against PyTorch"
        case "litert":
            result = export.export_litert(model, inputs, path)
            note, compared = ", for LiteRT", "LiteRT against PyTorch"
        case "executorch":
            result = export.export_executorch(model, inputs, path)
            note, compared = ", for ExecuTorch", "ExecuTorch against PyTorch"
        case _:
            result = export.export_coreml(model, inputs, path)
            note = "; not run, which needs macOS"
            compared = "the program that it was converted from against the model"
    return Exported(result, note, compared)


def write_int8(
    run: Session,
    model: nn.Module,
    source: Source,
    path: Path,
    settings: Int8Settings,
    *,
    dynamic_batch: bool = True,
    target: str = "onnxruntime",
) -> Int8Result:
    """Write ``model`` in int8 to ``path``; CheckFailed, and no file, when it agrees too little."""
    from octify.int8 import export_int8

    data = settings.data.open(run, source)
    result = export_int8(
        model,
        source.example_inputs,
        path,
        inputs_of(data),
        dynamic_batch,
        target=target,
        min_agreement=settings.min_agreement,
        max_error=settings.max_error,
        reduce_range=settings.reduce_range,
        progress=run.progress,
    )
    run.warn(*warnings_of(data), *result.warnings)
    return result
