"""ONNX files (``onnx:FILE``) as PyTorch models, by onnx2torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from octify.errors import SourceError
from octify.source.offline import failed, import_extra, offline
from octify.source.target import ModelSpec

_OPEN = 224  # samples of a height or width that the file leaves open


def build(target: ModelSpec) -> tuple[nn.Module, list[str]]:
    """Convert the file to a module with its weights; return it and the shapes of its inputs.

    Raises SourceError: no ONNX file, quantized, or an operator that onnx2torch does not know.
    """
    path = Path(str(target.name))
    if target.arguments:
        raise SourceError(
            f"an ONNX file takes no arguments: {target.arguments.text[:80]}", hint=f"onnx:{path}"
        )
    import onnx

    onnx2torch = import_extra("onnx2torch", "onnx")
    try:
        file = onnx.load(str(path))
    except Exception as error:
        raise SourceError(
            f"{path} is not a readable ONNX file", why=f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    quantized = sorted({node.op_type for node in file.graph.node if "Quantize" in node.op_type})
    if quantized:
        raise SourceError(
            f"{path} is quantized",
            why=f"it has {', '.join(quantized)}",
            hint="give the float file, and quantize what octify exports",
        )
    with offline("onnx2torch"):
        try:
            model: nn.Module = onnx2torch.convert(file)
        except NotImplementedError as error:
            raise failed(
                f"onnx:{path}", error, "onnx2torch does not know it; give the PyTorch model"
            ) from error
        except Exception as error:
            raise failed(f"onnx:{path}", error) from error
    return model, _shapes(file.graph)


def _shapes(graph: Any) -> list[str]:
    """Shapes of the inputs, as typed; none where an input has no rank or an unusual type."""
    from onnx import TensorProto

    dtypes = {
        TensorProto.FLOAT: "",
        TensorProto.DOUBLE: ":float64",
        TensorProto.FLOAT16: ":float16",
        TensorProto.INT64: ":int64",
        TensorProto.INT32: ":int32",
        TensorProto.UINT8: ":uint8",
        TensorProto.BOOL: ":bool",
    }
    constants = {tensor.name for tensor in graph.initializer}
    texts = []
    for value in graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or tensor.elem_type not in dtypes or not tensor.shape.dim:
            return []
        sizes = [dim.dim_value or (1 if place == 0 else _OPEN) for place, dim in enumerate(tensor.shape.dim)]
        texts.append("x".join(map(str, sizes)) + dtypes[tensor.elem_type])
    return texts
