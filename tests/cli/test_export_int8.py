"""``octify export`` for a target, at a fixed batch, and in int8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from octify.compare.agreement import Agreement, OutputError

Octify = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 inputs, ``tmp_path/data.npy``."""
    path = tmp_path / "data.npy"
    np.save(path, np.random.default_rng(0).standard_normal((40, 3, 32, 32)).astype(np.float32))
    return path


def test_a_fixed_batch(octify: Octify, net: Path) -> None:
    outcome = octify("export", net, "x.onnx", "--batch", "2", "--target", "openvino", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["onnx"]["batch_sizes"] == [2] and outcome.json["onnx"]["target"] == "openvino"
    (value,) = onnx.load("x.onnx").graph.input
    assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [2, 3, 32, 32]


def test_a_dense_model_and_its_conversion_in_int8(octify: Octify, net: Path, data: Path) -> None:
    assert octify("convert", net, "-o", "out").code == 0
    for what, file in ((net, "dense.onnx"), ("out", "octave.onnx")):
        outcome = octify("export", what, file, "--int8", "--calib", data, "--batch", "1", "--json")
        assert outcome.code == 0, outcome.err
        told = outcome.json["int8"]
        assert told["bytes"] == Path(file).stat().st_size < told["float_bytes"]
        assert told["agreement"]["held_out"] is True and told["calibrated_on"] + 5 == 40
        assert told["times"]["int8_milliseconds"] > 0 and told["times"]["float_milliseconds"] > 0
        assert {"QuantizeLinear"} <= {node.op_type for node in onnx.load(file).graph.node}


def test_too_little_agreement_ends_with_1_and_no_file(octify: Octify, net: Path, data: Path) -> None:
    Path("x.onnx").write_bytes(b"the old file")
    outcome = octify("export", net, "x.onnx", "--int8", "--calib", data, "--max-error", "1e-9")
    assert outcome.code == 1
    assert "x.onnx was not written" in outcome.err
    assert Path("x.onnx").read_bytes() == b"the old file"


@pytest.mark.parametrize(("least", "code"), [("0.9", 1), ("0.81", 1), ("0.8", 0), ("0", 0)])
def test_the_least_agreement_is_kept_exactly(
    octify: Octify, net: Path, data: Path, monkeypatch: pytest.MonkeyPatch, least: str, code: int
) -> None:
    agreement = Agreement(5, True, OutputError(0.1, 0.8))
    monkeypatch.setattr("octify.int8.export.agreement_of", lambda *_: agreement)
    monkeypatch.setattr("octify.int8.export.quantized", lambda source, path, *_, **__: path.write_bytes(b"x"))
    monkeypatch.setattr("octify.int8.export._times", lambda *_: None)
    outcome = octify("export", net, "x.onnx", "--int8", "--calib", data, "--min-agreement", least)
    assert outcome.code == code, outcome.err
    assert Path("x.onnx").exists() is (code == 0)
    if code:
        assert "80.00%" in outcome.err and "x.onnx was not written" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--int8",), "--int8 needs --calib"),
        (("--int8", "--calib", "synthetic"), "does not take --calib synthetic"),
        (("--int8", "--calib", "gone.npy"), "no such calibration data: gone.npy"),
        (("--int8", "--calib", "data.npy", "--target", "ncnn"), "ncnn takes no int8 ONNX file"),
        (("--int8", "--calib", "data.npy", "--min-agreement", "98"), "--min-agreement is 98"),
        (("--calib", "data.npy"), "--calib is for --int8"),
        (("--min-agreement", "0.9"), "--min-agreement is for --int8"),
        (("--reduce-range",), "--reduce-range is for --int8"),
        (("--batch", "2", "--static-batch"), "leave one of them out"),
        (("--batch", "0"), "--batch"),
        (("--target", "tensorrt"), "tensorrt"),
    ],
)
def test_wrong_usage(
    refused: Callable[..., str], net: Path, data: Path, arguments: tuple[str, ...], told: str
) -> None:
    assert told in refused("export", net, "x.onnx", *arguments)
    assert not Path("x.onnx").exists()


def test_a_program_is_for_no_target(refused: Callable[..., str], net: Path) -> None:
    assert "PyTorch program by its name" in refused("export", net, "x.pt2", "--target", "openvino")


def test_the_data_is_not_overwritten(refused: Callable[..., str], net: Path, data: Path) -> None:
    assert "FILE would overwrite" in refused("export", net, data, "--int8", "--calib", data)
