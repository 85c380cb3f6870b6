"""The command line on a CUDA device; skipped where there is none (tests/calibrate/test_device.py has a stand-in)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import NET
from tests.conftest import OctifyCli

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NOISE = 0.05  # of the error that calibration leaves: TF32, and sums in another order


def test_device_of_the_command_line(octify_cli: OctifyCli, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((48, 3, 32, 32), dtype=np.float32))
    options = ("net.py", "--calib", "x.npy", "--calib-effort", "fast", "--rules", "everywhere")
    there = octify_cli("convert", *options, "-o", "there", "--onnx", "there.onnx", "--device", "cuda")
    assert there.returncode == 0, there.stderr
    here = octify_cli("convert", *options, "-o", "here")
    assert here.returncode == 0, here.stderr
    errors = [
        json.loads((tmp_path / folder / "report.json").read_text())["calibration"]["after"]["relative_error"]
        for folder in ("there", "here")
    ]
    assert errors[0] == pytest.approx(errors[1], rel=NOISE)
    # What was made there is read and exported where there is no such device.
    again = octify_cli("export", "there", "again.onnx", env={"CUDA_VISIBLE_DEVICES": ""})
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_tuning(octify_cli: OctifyCli, tmp_path: Path, precision: str) -> None:
    (tmp_path / "net.py").write_text(NET)
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((96, 3, 32, 32), dtype=np.float32)
    np.savez(tmp_path / "x.npz", inputs=inputs, labels=generator.integers(0, 10, 96))
    assert octify_cli("convert", "net.py", "--rules", "everywhere", "-o", "out").returncode == 0
    options = ("tune", "out", "--data", "x.npz", "--labels", "none", "--steps", "60", "--json")
    tuned = octify_cli(*options, "--precision", precision, "-o", "tuned")
    assert tuned.returncode == 0, tuned.stderr
    row = json.loads(tuned.stdout)["tuning"]
    assert (row["precision"], row["device"]) == (precision, "cuda")
    assert row["after"]["relative_error"] < row["before"]["relative_error"]


def test_a_device_that_is_not_there(octify_cli: OctifyCli, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    refused = octify_cli("convert", "net.py", "--calib", "synthetic", "--device", "cuda:99", "-o", "out")
    assert refused.returncode == 2
    assert "there is no device cuda:99 here" in refused.stderr
    assert not (tmp_path / "out").exists()
