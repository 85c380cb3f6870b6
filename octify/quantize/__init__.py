"""Static int8 quantization of exported files by onnxruntime, and what octave files need beside it."""

from octify.quantize.static import quantized

__all__ = ["quantized"]
