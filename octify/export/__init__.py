"""Export: BatchNorm folding, and ONNX files and PyTorch programs that were compared with the model."""

from octify.export.fold import fold_batchnorm
from octify.export.onnx import export_onnx
from octify.export.program import export_program
from octify.export.result import ExportResult, FileResult, ProgramResult

__all__ = ["ExportResult", "FileResult", "ProgramResult", "export_onnx", "export_program", "fold_batchnorm"]
