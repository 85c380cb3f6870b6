"""LiteRT, ExecuTorch and Core ML: files of octave networks, odd maps included, each in its own environment.

pip install '.[test,executorch]', '.[test,coreml]' (both with -c constraints.txt) or '.[test,litert]'
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import octify
from octify.errors import CheckFailed
from octify.export import executorch as executorch_files
from octify.export import litert as litert_files
from samples.unet import build_model as unet
from tests.export.test_openvino import Branches
from tests.oracle import randomised

pytestmark = pytest.mark.packages

NETS = [(Branches, (1, 3, 15, 17)), (Branches, (2, 3, 32, 32)), (unet, (1, 3, 64, 64))]


@pytest.fixture(scope="module", params=NETS, ids=lambda net: f"{net[0].__name__}-{net[1][-1]}")
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    build, shape = request.param
    torch.manual_seed(0)
    x = torch.randn(*shape)
    return octify.convert(randomised(build()).float(), x, 0.5, rules="everywhere").model, x


def test_litert(case: tuple[nn.Module, torch.Tensor], tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    result = octify.export_litert(*case, tmp_path / "net.tflite")
    assert result.passed and result.batch_sizes == (len(case[1]),) and result.compared_in == "LiteRT"
    assert result.bytes == (tmp_path / "net.tflite").stat().st_size


def test_executorch(case: tuple[nn.Module, torch.Tensor], tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    result = octify.export_executorch(*case, tmp_path / "net.pte")
    assert result.passed and result.batch_sizes == (len(case[1]),) and result.compared_in == "ExecuTorch"
    assert result.bytes == (tmp_path / "net.pte").stat().st_size


def test_coreml(case: tuple[nn.Module, torch.Tensor], tmp_path: Path) -> None:
    """The package has the weights and the operators of the program; running it takes macOS."""
    coremltools = pytest.importorskip("coremltools")
    model, x = case
    result = octify.export_coreml(model, x, tmp_path / "net.mlpackage")
    assert result.passed and result.compared_in == "PyTorch"
    spec = coremltools.models.MLModel(str(tmp_path / "net.mlpackage"), skip_model_load=True).get_spec()
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    convolutions = sum(operation.type == "conv" for operation in block.operations)
    assert convolutions >= sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
    assert tuple(spec.description.input[0].type.multiArrayType.shape) == tuple(x.shape)
    # An older package is replaced whole.
    names = sorted(path.name for path in (tmp_path / "net.mlpackage").iterdir())
    (tmp_path / "net.mlpackage" / "stray").touch()
    octify.export_coreml(model, x, tmp_path / "net.mlpackage")
    assert sorted(path.name for path in (tmp_path / "net.mlpackage").iterdir()) == names


@pytest.mark.parametrize(
    ("module", "files", "suffix"),
    [("litert_torch", litert_files, "tflite"), ("executorch", executorch_files, "pte")],
)
def test_no_file_unless_it_agrees(
    module: str, files: object, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(module)
    honest = files._answers
    monkeypatch.setattr(files, "_answers", lambda *args: [y * 1.01 for y in honest(*args)])
    export = octify.export_litert if suffix == "tflite" else octify.export_executorch
    with pytest.raises(CheckFailed, match="does not compute what the model computes"):
        export(Branches().eval(), torch.randn(1, 3, 16, 16), tmp_path / f"net.{suffix}")
    assert list(tmp_path.iterdir()) == []
