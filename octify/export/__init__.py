"""Export: BatchNorm folding, and files of several formats that were compared with the model.

The runtimes are imported at the first use of a function: ``octify.export.fold`` and ``norm`` serve
calibration too, which needs none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octify.export.coreml import export_coreml
    from octify.export.executorch import export_executorch
    from octify.export.fold import fold_batchnorm
    from octify.export.litert import export_litert
    from octify.export.onnx import export_onnx
    from octify.export.openvino import export_openvino
    from octify.export.program import export_program
    from octify.export.result import ExportResult, FileResult, ProgramResult, RuntimeResult

_HOME = {
    "ExportResult": "octify.export.result",
    "FileResult": "octify.export.result",
    "ProgramResult": "octify.export.result",
    "RuntimeResult": "octify.export.result",
    "export_coreml": "octify.export.coreml",
    "export_executorch": "octify.export.executorch",
    "export_litert": "octify.export.litert",
    "export_onnx": "octify.export.onnx",
    "export_openvino": "octify.export.openvino",
    "export_program": "octify.export.program",
    "fold_batchnorm": "octify.export.fold",
}

__all__ = [
    "ExportResult",
    "FileResult",
    "ProgramResult",
    "RuntimeResult",
    "export_coreml",
    "export_executorch",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_program",
    "fold_batchnorm",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'octify.export' has no attribute {name!r}")
