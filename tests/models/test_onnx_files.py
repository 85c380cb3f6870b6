"""Converted real models as ONNX files: onnxruntime agrees, and the graph is one that runtimes run well."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch

import octify
from tests.models import zoo

ALPHAS = (0.25, 0.5)
EVERYDAY = (
    ("torchvision:resnet18", 0.5),
    ("samples/mobilenetv2_se.py", 0.25),
    ("samples/digits_resnet.py", 0.25),
)


def computed_resizes(graph: ir.Graph) -> list[str]:
    """Resize nodes whose factors are not constants of the file: 2, or 1 along an axis that stays."""
    found = []
    for node in (node for node in graph.all_nodes() if node.op_type == "Resize"):
        scales = node.inputs[2] if len(node.inputs) > 2 else None
        sizes = node.inputs[3] if len(node.inputs) > 3 else None
        constant = scales is not None and scales.is_initializer() and scales.const_value is not None
        factors = list(scales.const_value.numpy()) if constant else []
        if sizes is not None or factors[:2] != [1, 1] or not {*factors[2:]} <= {1, 2}:
            found.append(node.name)
    return found


def check_onnx(name: str, alpha: float, size: int, file: Path) -> None:
    model = zoo.build(name, settle_at=size)
    x = zoo.BY_NAME[name].example(size, batch=1)
    result = octify.convert(model, x, alpha, rules="everywhere")
    exported = octify.export_onnx(result.model, x, file)
    assert exported.passed
    assert exported.max_abs_error <= exported.tolerance
    assert exported.batch_sizes == (1, 2)
    graph = ir.load(file).graph
    assert "BatchNormalization" not in exported.ops
    assert "BatchNormalization" not in {node.op_type for node in graph.all_nodes()}
    assert exported.ops["Resize"] > 0
    assert not computed_resizes(graph)
    assert not {"Shape", "Range", "NonZero"} & exported.ops.keys()
    (image,) = graph.inputs
    assert image.shape is not None
    assert not isinstance(image.shape[0], int), "the batch size is fixed"
    assert image.shape[1:] == tuple(x.shape[1:])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "alpha"), EVERYDAY)
def test_onnx(name: str, alpha: float, tmp_path: Path) -> None:
    check_onnx(name, alpha, zoo.BY_NAME[name].small, tmp_path / "net.onnx")


@pytest.mark.zoo
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_zoo_onnx(name: str, alpha: float, tmp_path: Path) -> None:
    check_onnx(name, alpha, zoo.BY_NAME[name].size, tmp_path / "net.onnx")
