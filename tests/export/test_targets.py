"""Files for a runtime: the same function for each, with the operators that this runtime does fast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from octify.export.deploy import RULES
from octify.export.onnx import captured, written
from octify.export.result import ExportResult
from octify.export.targets import LIMITS, ExportTarget, name_of


class Inverted(nn.Module):
    """An inverted residual with ReLU6 between two convolutions, on maps that are odd once halved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.expand = nn.Conv2d(32, 128, 1)
        self.depthwise = nn.Conv2d(128, 128, 3, 2, padding=1, groups=128)
        self.project = nn.Conv2d(128, 32, 1)
        self.last = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.stem(x))
        x = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.expand(x))))
        return self.head(nn.functional.relu6(self.last(self.project(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[ExportTarget, ExportResult]:
    """One octave model, exported for every target."""
    torch.manual_seed(0)
    x, folder = torch.randn(1, 3, 14, 14), tmp_path_factory.mktemp("targets")
    octave = octify.convert(Inverted().eval(), x, 0.5, rules="everywhere").model
    source = captured(octave, (x,), dynamic_batch=True)
    return {
        target: written(source.copy(), folder / f"{target.value}.onnx", target) for target in ExportTarget
    }


def by_one(path: Path) -> int:
    """Number of depthwise convolutions by one."""
    graph = onnx.load(path).graph
    ones = {
        array.name
        for array in graph.initializer
        if list(array.dims)[1:] == [1, 1, 1] and (numpy_helper.to_array(array) == 1).all()
    }
    return sum(node.op_type == "Conv" and node.input[1] in ones for node in graph.node)


@pytest.mark.parametrize("target", ExportTarget)
def test_every_file_was_compared_with_the_model(
    files: Mapping[ExportTarget, ExportResult], target: ExportTarget
) -> None:
    result = files[target]
    assert result.passed and result.max_abs_error <= result.tolerance
    assert result.target == target.value == result.to_dict()["target"]


def test_a_convolution_by_one_is_for_onnxruntimes_float_kernels_alone(
    files: Mapping[ExportTarget, ExportResult],
) -> None:
    assert {target for target, result in files.items() if by_one(result.path)} == {ExportTarget.onnxruntime}


def test_openvino_gets_average_pooling(files: Mapping[ExportTarget, ExportResult]) -> None:
    pools = {target: result.ops.get("AveragePool", 0) for target, result in files.items()}
    theirs = pools.pop(ExportTarget.openvino), pools.pop(ExportTarget.openvino_int8)
    assert min(theirs) > max(pools.values())


def test_int8_has_no_average_pooling_at_odd_sizes_either(files: Mapping[ExportTarget, ExportResult]) -> None:
    assert files[ExportTarget.onnxruntime].ops["AveragePool"] > 0
    ops = files[ExportTarget.onnxruntime_int8].ops
    assert "AveragePool" not in ops and ops["Pad"] > 0


def test_expansions_are_one_convolution_but_in_openvinos_float32(
    files: Mapping[ExportTarget, ExportResult],
) -> None:
    concats = {target: result.ops.get("Concat", 0) for target, result in files.items()}
    merges = concats.pop(ExportTarget.openvino)
    assert set(concats.values()) == {merges + 2}


def test_every_limit_is_one_of_a_rule_and_has_a_reason() -> None:
    assert set(LIMITS) <= {name_of(rule) for rule in RULES}
    for limit in LIMITS.values():
        assert limit.targets < set(ExportTarget) and limit.reason


def test_an_unknown_target_is_refused_with_the_names_of_all(tmp_path: Path) -> None:
    with pytest.raises(OctifyError, match="no export target 'tensorrt'") as caught:
        octify.export_onnx(nn.Identity(), torch.zeros(1, 3), tmp_path / "x.onnx", target="tensorrt")
    assert all(target.value in str(caught.value) for target in ExportTarget)
    assert not list(tmp_path.iterdir())
