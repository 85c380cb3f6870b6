"""Folding BatchNorm, and writing ONNX files that were compared with PyTorch."""

from octify.export.fold import fold_batchnorm
from octify.export.onnx import ExportResult, export_onnx

__all__ = ["ExportResult", "export_onnx", "fold_batchnorm"]
