"""Folding BatchNorm, and writing ONNX files and PyTorch programs that were compared with the model."""

from octify.export.fold import fold_batchnorm
from octify.export.onnx import ExportResult, export_onnx
from octify.export.program import ProgramResult, export_program

__all__ = ["ExportResult", "ProgramResult", "export_onnx", "export_program", "fold_batchnorm"]
