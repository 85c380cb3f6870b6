"""Rules of the export that keep maps in the runtime's layout, on graphs of a few nodes.

Every export compares onnxruntime's answers with PyTorch's, so what is stated here is the form alone.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.nn import MergeOctave


def _graph(model: nn.Module, inputs: tuple[Tensor, ...], file: Path) -> onnx.GraphProto:
    octify.export_onnx(model.eval(), inputs, file, dynamic_batch=True)
    return onnx.load(file).graph


def _ops(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


class Cropped(nn.Module):
    """``conv(x)`` and an upsampled ``low(y)``, cropped by so many samples, added."""

    def __init__(self, crop: tuple[int, int], first: int = 0) -> None:
        super().__init__()
        self.crop, self.first = crop, first
        self.conv, self.low = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        up = F.interpolate(self.low(y), scale_factor=2.0)
        rows, columns = (n - c for n, c in zip(up.shape[2:], self.crop, strict=True))
        up = up[:, :, self.first : self.first + rows, self.first : self.first + columns]
        return F.relu(self.conv(x) + up)


@pytest.mark.parametrize("crop", [(1, 1), (1, 0), (0, 1)])
def test_the_last_row_and_column_are_cropped_by_a_convolution(crop: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 16, 8 - crop[0], 8 - crop[1]), torch.randn(2, 16, 4, 4)
    graph = _graph(Cropped(crop), (x, y), tmp_path / "crop.onnx")
    assert _ops(graph) == {"Conv": 3, "Resize": 1, "Add": 1, "Relu": 1}
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kernel = next(array for array in tensors.values() if array.shape == (16, 1, 1 + crop[0], 1 + crop[1]))
    assert (kernel[:, 0, 0, 0] == 1).all()
    assert kernel.sum() == 16


@pytest.mark.parametrize(("crop", "first"), [((2, 2), 0), ((1, 1), 1)])
def test_other_crops_stay(crop: tuple[int, int], first: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 16, 8 - crop[0], 8 - crop[1]), torch.randn(2, 16, 4, 4)
    assert _ops(_graph(Cropped(crop, first), (x, y), tmp_path / "crop.onnx"))["Slice"] == 1


class Clipped(nn.Module):
    """ReLU6 of a convolution, of a sum with one, and of a sum without."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return F.relu6(self.a(x)), F.relu6(self.b(x) + y), F.relu6(x + y)


def test_relu6_of_a_sum_of_convolutions_follows_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = _graph(Clipped(), (torch.randn(2, 16, 6, 6), torch.randn(2, 16, 6, 6)), tmp_path / "clip.onnx")
    assert _ops(graph) == {"Conv": 3, "Add": 2, "Clip": 3}
    made = {output: node.op_type for node in graph.node for output in node.output}
    read = [made[node.input[0]] for node in graph.node if node.op_type == "Clip"]
    assert sorted(read) == ["Add", "Conv", "Conv"]


class Flattened(nn.Module):
    """An octave value merged, flattened and read by a linear layer (and, if asked, by someone else)."""

    def __init__(self, low: list[int], side: int, twice: bool = False) -> None:
        super().__init__()
        self.merge, self.twice = MergeOctave(6, low), twice
        self.linear = nn.Linear(6 * side * side, 5)

    def forward(self, high: Tensor, low: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.merge(high * 2, low * 2)
        y: Tensor = self.linear(x.flatten(1))
        return (y, x) if self.twice else y


@pytest.mark.parametrize("side", [4, 5])
@pytest.mark.parametrize("low", [[4, 5], [0, 3, 4]])
def test_a_linear_layer_reads_both_branches(side: int, low: list[int], tmp_path: Path) -> None:
    """Without upsampling; it has a weight for every sample that is stored."""
    torch.manual_seed(0)
    half = (side + 1) // 2
    inputs = torch.randn(2, 6 - len(low), side, side), torch.randn(2, len(low), half, half)
    graph = _graph(Flattened(low, side), inputs, tmp_path / "linear.onnx")
    assert _ops(graph) == {"Mul": 2, "Flatten": 2, "Concat": 1, "Gemm": 1}
    stored = (6 - len(low)) * side**2 + len(low) * half**2
    assert sorted(list(t.dims) for t in graph.initializer if len(t.dims) == 2) == [[5, stored]]


def test_a_merged_map_that_others_read_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(2, 4, 4, 4), torch.randn(2, 2, 2, 2)
    ops = _ops(_graph(Flattened([4, 5], 4, twice=True), inputs, tmp_path / "twice.onnx"))
    assert ops["Resize"] == 1
    assert ops["Flatten"] == 0


class Padded(nn.Module):
    """Max pooling behind a padding with ``value`` of the last row and column, ``amount`` wide."""

    def __init__(self, value: float, amount: int) -> None:
        super().__init__()
        self.value, self.amount = value, amount

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(F.relu(x), [0, self.amount, 0, self.amount], value=self.value)
        return F.max_pool2d(padded, 2, stride=2)


@pytest.mark.parametrize(
    ("value", "amount", "left"), [(float("-inf"), 1, False), (0.0, 1, True), (float("-inf"), 2, True)]
)
def test_padding_with_minus_infinity_is_left_to_the_pooling(
    value: float, amount: int, left: bool, tmp_path: Path
) -> None:
    """Unless it is with something else, or wider than ONNX allows."""
    torch.manual_seed(0)
    graph = _graph(Padded(value, amount), (torch.randn(2, 16, 7, 7) - 5,), tmp_path / "pad.onnx")
    assert ("Pad" in _ops(graph)) == left
