"""ONNX files (``onnx:FILE``) as PyTorch models, by onnx2torch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octify.errors import SourceError
from octify.source.offline import failed, import_extra, offline
from octify.source.shape import parse_shape
from octify.source.target import ModelSpec

_OPEN = 224  # samples of a height or width that the file leaves open
_OLDER = (18, 17, 16)  # opsets to try where onnx2torch does not know the file's own
_SAME = 1e-3


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
    shapes = _shapes(file.graph)
    with offline("onnx2torch"):
        model = _converted(onnx2torch, file, path)
        _require_equal(model, path, shapes)
    return model, shapes


def _converted(onnx2torch: Any, file: Any, path: Path) -> nn.Module:
    """The module of a file, in an older opset where onnx2torch does not know the file's own operators."""
    from onnx import version_converter

    refusal: Exception | None = None
    own = max((each.version for each in file.opset_import if not each.domain), default=0)
    for opset in (None, *(each for each in _OLDER if each < own)):
        try:
            version = file if opset is None else version_converter.convert_version(file, opset)
            model: nn.Module = onnx2torch.convert(_without_allowzero(version))
            return model
        except Exception as error:  # the converters of both packages raise whatever they meet
            refusal = refusal or error
    assert refusal is not None
    hint = "onnx2torch does not know it; give the PyTorch model"
    raise failed(
        f"onnx:{path}", refusal, hint if isinstance(refusal, NotImplementedError) else None
    ) from refusal


def _without_allowzero(file: Any) -> Any:
    """``file`` without the attribute ``allowzero``, which onnx2torch refuses, where no shape has a zero."""
    from onnx import numpy_helper

    shapes = {
        each.name: numpy_helper.to_array(each) for each in file.graph.initializer if each.data_type == 7
    }
    for node in file.graph.node:
        if node.op_type == "Reshape" and node.input[1] in shapes and (shapes[node.input[1]] != 0).all():
            for attribute in [each for each in node.attribute if each.name == "allowzero"]:
                node.attribute.remove(attribute)
    return file


@torch.no_grad()
def _require_equal(model: nn.Module, path: Path, shapes: Sequence[str]) -> None:
    """Compare ``model`` with onnxruntime on random inputs. Raises SourceError where it computes otherwise.

    The bound of a thousandth of the largest value tells meanings apart, not rounding. A file that onnxruntime
    cannot run at its own or at the default sizes is refused: nothing shows that it was understood.
    """
    from octify.source.inputs import random_inputs

    if not shapes:
        return
    inputs = random_inputs([parse_shape(text) for text in shapes], seed=0)
    try:
        runtime: Any = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        theirs = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        ours = model.eval()(*inputs)
    except Exception as error:
        raise failed(f"onnx:{path}", error, "give the PyTorch model") from error
    outputs = list(ours) if isinstance(ours, (tuple, list)) else [ours]
    for number, (a, b) in enumerate(zip(outputs, map(torch.as_tensor, theirs), strict=True)):
        error_size = float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
        if not error_size <= _SAME * max(float(b.double().abs().max()), 1e-6):
            raise SourceError(
                f"onnx2torch misunderstands {path}",
                why=f"output {number} differs from onnxruntime's by {error_size:.3g}",
                hint="give the PyTorch model",
            )


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
