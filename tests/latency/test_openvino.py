"""OpenVINO as a runtime: the model's answers, float32 where bfloat16 is slower, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from octify.latency import openvino
from octify.latency.runtime import RUNTIMES, Setting


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def file(net: nn.Module, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "net.onnx"
    return octify.export_onnx(net, x, path, target="openvino").path


def test_it_computes_what_the_model_computes(
    file: Path, net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "has_tiles", lambda: False)
    (answer,) = RUNTIMES["openvino"].prepare(file, (x,), Setting(1))()  # type: ignore[misc]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tiles", "precision"), [(False, "float32"), (True, None)])
def test_float32_is_asked_for_where_bfloat16_is_emulated(
    file: Path, monkeypatch: pytest.MonkeyPatch, tiles: bool, precision: str | None
) -> None:
    import openvino as library

    settings = {}

    class Core:
        def compile_model(self, path: str, device: str, asked: dict[str, object]) -> None:
            settings.update(asked, device=device)

    monkeypatch.setattr(library, "Core", Core)
    monkeypatch.setattr(openvino, "has_tiles", lambda: tiles)
    openvino.compiled(file, threads=3)
    assert settings["device"] == "CPU" and settings["INFERENCE_NUM_THREADS"] == 3
    assert settings.get("INFERENCE_PRECISION_HINT") == (None if precision is None else "f32")


def test_it_runs_one_thread_where_one_is_asked_for(file: Path) -> None:
    assert openvino.compiled(file, threads=1).get_property("INFERENCE_NUM_THREADS") == 1


def test_a_wrong_number_of_inputs(file: Path, x: Tensor) -> None:
    with pytest.raises(OctifyError, match=r"takes 1 input\(s\), 2 were given"):
        openvino.prepared(file, (x, x), 1)


def test_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(OctifyError, match="OpenVINO cannot load the file"):
        openvino.compiled(tmp_path / "broken.onnx", 1)


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OctifyError, match=r"openvino is not available[\s\S]*octify\[openvino\]"):
        octify.bench({"a": nn.Identity()}, torch.zeros(1, 3), runtimes=["openvino"])


def test_int8_runtimes_quantize_modules(net: nn.Module, x: Tensor, file: Path) -> None:
    runtimes = ("onnxruntime-int8", "openvino-int8")
    result = octify.bench({"net": net}, x, runtimes=runtimes, rounds=2, min_seconds=0.0, profile=True)
    assert [row.runtime for row in result.rows] == list(runtimes)
    assert any("QLinearConv" in op.op or "Quantize" in op.op for op in result.rows[0].ops)
    with pytest.raises(OctifyError, match="is an ONNX file"):
        octify.bench({"file": file}, x, runtimes=runtimes)
