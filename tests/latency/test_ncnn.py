"""ncnn as a runtime: the model's answers through pnnx, at batch 1, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from octify.latency import ncnn
from octify.latency.runtime import RUNTIMES, Setting


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU6()),
        nn.Conv2d(32, 8, 3, padding=1),
    ).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def file(net: nn.Module, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ncnn") / "net.onnx"
    return octify.export_onnx(net, x, path, dynamic_batch=False, target="ncnn").path


def test_octave_models_compute_what_they_compute(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    """Pooling, upsampling and sums, as ``--target ncnn`` exports them."""
    model = octify.convert(net, x, 0.5, "everywhere").model
    path = octify.export_onnx(model, x, tmp_path / "octave.onnx", dynamic_batch=False, target="ncnn").path
    (answer,) = RUNTIMES["ncnn"].prepare(path, (x,), Setting(1))()  # type: ignore[misc]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), model(x), rtol=1e-3, atol=1e-3)


def test_bench_times_it(net: nn.Module, x: Tensor) -> None:
    result = octify.bench({"net": net}, x, runtimes=["ncnn"], rounds=2, min_seconds=0.0)
    assert [row.runtime for row in result.rows] == ["ncnn"]
    assert result.versions["ncnn"]


@pytest.mark.parametrize("other", [torch.zeros(2, 3, 16, 16), torch.zeros(1, 3, 16, 16).double()])
def test_other_inputs_are_refused(file: Path, other: Tensor) -> None:
    with pytest.raises(OctifyError, match="float32 inputs of batch 1"):
        ncnn.prepared(file, (other,), 1)


def test_a_wrong_number_of_inputs(file: Path, x: Tensor) -> None:
    with pytest.raises(OctifyError, match=r"takes 1 input\(s\), 2 were given|pnnx cannot convert"):
        ncnn.prepared(file, (x, x), 1)


def test_a_broken_file(tmp_path: Path, x: Tensor) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(OctifyError, match="pnnx cannot convert the file for ncnn"):
        ncnn.prepared(tmp_path / "broken.onnx", (x,), 1)


def test_without_the_packages_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OctifyError, match=r"ncnn is not available[\s\S]*octify\[ncnn\]"):
        octify.bench({"a": nn.Identity()}, torch.zeros(1, 3), runtimes=["ncnn"])
