"""``octify export``: artefacts and models to ONNX."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import octify as library
from octify.source import load_source


def answers(path: Path, batch: torch.Tensor) -> Any:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0]


def test_an_artefact_is_exported_with_its_own_weights(octify: Any, net: Path) -> None:
    model = load_source(str(net)).model
    torch.save({key: entry * 1.5 for key, entry in model.state_dict().items()}, "w.pt")
    assert octify("convert", net, "-o", "out", "--weights", "w.pt").code == 0
    outcome = octify("export", "out", "x.onnx", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["onnx"]["passed"] is True
    batch = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = library.load(Path("out"), model)(batch).numpy()
        plain = model(batch).numpy()
    answer = answers(Path("x.onnx"), batch)
    assert abs(answer - expected).max() < 1e-4
    assert abs(answer - plain).max() > 1e-2


@pytest.mark.usefixtures("exports")
def test_a_project_that_moved_still_exports(octify: Any, tmp_path: Path, net: Path) -> None:
    (tmp_path / "project").mkdir()
    shutil.move(net, tmp_path / "project" / "net.py")
    assert octify("convert", "project/net.py:model", "-o", "project/out").code == 0
    (tmp_path / "project").rename(tmp_path / "elsewhere")
    assert octify("export", "elsewhere/out", "x.onnx").code == 0


@pytest.mark.usefixtures("exports")
def test_the_original_can_be_named(octify: Any, tmp_path: Path, net: Path) -> None:
    assert octify("convert", net, "-o", "out").code == 0
    net.rename(tmp_path / "renamed.py")
    assert octify("export", "out", "x.onnx").code == 2
    assert octify("export", "out", "x.onnx", "--model", "renamed.py").code == 0


def test_a_model_is_exported_as_it_is(octify: Any, net: Path) -> None:
    outcome = octify("export", net, "new/folder/x.onnx")
    assert outcome.code == 0
    assert "wrote new/folder/x.onnx" in outcome.out.replace("\\", "/")
    assert "maximum error" in outcome.out
    source = load_source(str(net))
    with torch.no_grad():
        expected = source.model(*source.example_inputs).numpy()
    assert abs(answers(Path("new/folder/x.onnx"), source.example_inputs[0]) - expected).max() < 1e-4


def test_a_static_batch(octify: Any, net: Path) -> None:
    assert octify("export", net, "x.onnx", "--static-batch").code == 0
    answers(Path("x.onnx"), torch.zeros(1, 3, 32, 32))
    with pytest.raises(Exception, match=r"dimension|shape"):
        answers(Path("x.onnx"), torch.zeros(2, 3, 32, 32))


def test_the_inputs_of_the_conversion_are_remembered(
    octify: Any, net: Path, exports: list[tuple[int, ...]]
) -> None:
    assert octify("convert", net, "-o", "out", "--input", "1x3x48x48").code == 0
    assert octify("export", "out", "x.onnx").code == 0
    assert octify("export", "out", "x.onnx", "--input", "2x3x32x32").code == 0
    assert exports == [(1, 3, 48, 48), (2, 3, 32, 32)]


def test_a_program_by_its_suffix(octify: Any, net: Path) -> None:
    assert octify("convert", net, "-o", "out").code == 0
    outcome = octify("export", "out", "x.pt2", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["program"]["passed"] is True
    assert outcome.json["program"]["path"] == "x.pt2"
    batch = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = library.load(Path("out"), load_source(str(net)).model)(batch)
        answer = torch.export.load("x.pt2").module()(batch)
    assert (answer - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_an_ir_by_its_suffix(octify: Any, net: Path) -> None:
    pytest.importorskip("openvino")
    Path("x.xml").write_text('<?xml version="1.0"?><net name="older">', encoding="utf-8")
    Path("x.bin").write_bytes(b"weights of the older one")
    outcome = octify("export", net, "x.xml", "--json")
    assert outcome.code == 0, outcome.err
    result = outcome.json["openvino"]
    assert result["passed"] is True
    assert result["bytes"] == Path("x.xml").stat().st_size + Path("x.bin").stat().st_size


def test_an_ir_replaces_no_file_of_another_kind(refused: Callable[..., str], net: Path) -> None:
    pytest.importorskip("openvino")
    Path("weights.bin").write_bytes(b"a checkpoint")
    assert "FILE would overwrite weights.bin" in refused("export", net, "weights.xml")
    Path("boxes.xml").write_text("<annotation/>", encoding="utf-8")
    assert "FILE would overwrite boxes.xml" in refused("export", net, "boxes.xml")
    assert Path("weights.bin").read_bytes() == b"a checkpoint"
    assert Path("boxes.xml").read_text(encoding="utf-8") == "<annotation/>"


@pytest.mark.parametrize("suffix", ["xml", "tflite", "mlpackage", "pte"])
def test_a_package_that_is_missing(
    refused: Callable[..., str], net: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octify.export.formats.importlib.util.find_spec", lambda name: None)
    error = refused("export", net, f"x.{suffix}")
    assert "is not installed" in error and "pip install 'octify[" in error


def test_a_package_replaces_no_other_folder(
    refused: Callable[..., str], net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octify.export.formats.FileFormat.check_installed", lambda self: None)
    Path("x.mlpackage").mkdir()
    Path("x.mlpackage/mine").touch()
    assert "what is there is no package" in refused("export", net, "x.mlpackage", "--force")
    assert Path("x.mlpackage/mine").exists()
