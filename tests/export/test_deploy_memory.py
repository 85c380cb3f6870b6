"""Rules of the export that keep peak memory low, on graphs of a few nodes.

Every export compares onnxruntime's answers with PyTorch's, so what is stated here is the form alone.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.export.upsample import WIDEST


def _graph(model: nn.Module, inputs: tuple[Tensor, ...], file: Path) -> onnx.GraphProto:
    octify.export_onnx(model.eval(), inputs, file, dynamic_batch=True)
    return onnx.load(file).graph


class Branch(nn.Module):
    """The high branch behind a bottleneck: a convolution, an upsampled one, and (or not) the residual."""

    def __init__(self, low: nn.Conv2d, residual: bool = True) -> None:
        super().__init__()
        self.high, self.low, self.residual = nn.Conv2d(16, low.out_channels, 1), low, residual

    def forward(self, x: Tensor, y: Tensor, residual: Tensor) -> Tensor:
        total = self.high(x) + F.interpolate(self.low(y), scale_factor=2.0)
        return F.relu(total + residual if self.residual else total)


def _branch(low: nn.Conv2d, file: Path, residual: bool = True) -> onnx.GraphProto:
    torch.manual_seed(0)
    n = low.stride[0]
    inputs = torch.randn(2, 16, 8, 8), torch.randn(2, low.in_channels, 4 * n, 4 * n)
    return _graph(Branch(low, residual), (*inputs, torch.randn(2, low.out_channels, 8, 8)), file)


def _makers(graph: onnx.GraphProto) -> dict[str, str]:
    return {output: node.op_type for node in graph.node for output in node.output}


def test_beside_a_residual_the_narrow_map_is_upsampled(tmp_path: Path) -> None:
    """Every addition is then one that a convolution takes up: none is left that holds three maps at once."""
    graph = _branch(nn.Conv2d(WIDEST, 2 * WIDEST, 1), tmp_path / "before.onnx")
    made = _makers(graph)
    resize = next(node for node in graph.node if node.op_type == "Resize")
    assert resize.input[0] not in made, "the low branch itself"
    for node in graph.node:
        if node.op_type == "Add":
            assert "Conv" in [made.get(name) for name in node.input]


@pytest.mark.parametrize(
    ("low", "residual"),
    [
        (nn.Conv2d(WIDEST, 2 * WIDEST, 1), False),  # one upsampled map is what the convolution takes up
        (nn.Conv2d(WIDEST + 1, 2 * WIDEST + 2, 1), True),  # multiplying takes longer than copying
        (nn.Conv2d(16, 16, 1), True),  # the map in front is as wide
        (nn.Conv2d(16, 32, 3, padding=1), True),  # does not commute
        (nn.Conv2d(16, 32, 1, stride=2), True),
        (nn.Conv2d(16, 32, 1, groups=2), True),
    ],
)
def test_others_are_upsampled_behind_the_convolution(low: nn.Conv2d, residual: bool, tmp_path: Path) -> None:
    graph = _branch(low, tmp_path / "behind.onnx", residual)
    made = _makers(graph)
    assert [made.get(node.input[0]) for node in graph.node if node.op_type == "Resize"] == ["Conv"]


def test_weights_lie_smallest_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1), nn.Flatten(), nn.Linear(288, 4)
    )
    graph = _graph(model, (torch.randn(2, 3, 8, 8),), tmp_path / "order.onnx")
    sizes = [onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer]
    assert len(sizes) > 3
    assert sizes == sorted(sizes)
