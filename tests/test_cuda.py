"""On a CUDA device: calibration says what it says on the CPU, and what comes of it works everywhere.

The default suite skips these where there is no such device. TF32 is off: what is compared is float32's noise.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octify
from tests.cli.conftest import NET
from tests.conftest import OctifyCli
from tests.math.test_calibrate_kinds import KINDS, sides, smooth
from tests.models.zoo import BY_NAME, NAMES, build, settle

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("short_calibration", "full_precision"),
]
DEVICE = "cuda"
NOISE = 0.05  # of the error that calibration leaves: sums in another order, through a few hundred Adam steps


@pytest.fixture
def full_precision() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def network(kind: str = "residual") -> nn.Module:
    """One of the small networks of the tests on the CPU, there."""
    torch.manual_seed(0)
    model = KINDS[kind]()
    settle(model, [smooth(64, seed, sides(kind)) for seed in (1, 2)])
    return model


def calibrated(
    model: nn.Module, effort: str, images: Tensor | str, example: Tensor | None = None
) -> octify.Result:
    """``model``, where it is, converted and calibrated."""
    data = images if isinstance(images, str) else [images]
    shape = smooth(1, 0) if example is None else example[:1]
    return octify.convert(model, shape, rules="everywhere", calibration=data, effort=effort)


@torch.no_grad()
def error(result: octify.Result, model: nn.Module, test: Tensor) -> float:
    """The relative output error, on the CPU."""
    wanted = model.cpu()(test)
    given = result.model.cpu()(test)
    return float((given - wanted).norm() / (wanted - wanted.mean(0)).norm())


@pytest.mark.parametrize("effort", ["norm", "fast", "standard"])
@pytest.mark.parametrize("kind", KINDS)
def test_calibration_is_as_good_as_on_the_cpu(kind: str, effort: str) -> None:
    model, test, images = network(kind), smooth(64, 9, sides(kind)), smooth(48, 3, sides(kind))
    here = error(calibrated(model, effort, images, images), model, test)
    moved = copy.deepcopy(model).to(DEVICE)
    result = calibrated(moved, effort, images, images)
    assert {p.device.type for p in result.model.parameters()} == {DEVICE}
    assert {p.device.type for p in moved.parameters()} == {DEVICE}
    there = error(result, model, test)
    assert abs(there - here) < NOISE * here, (there, here)


@pytest.mark.parametrize("effort", ["fast", "standard"])
def test_images_that_are_made_or_few(effort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from octify.calibrate import few

    monkeypatch.setattr(few, "ENOUGH", 64)
    model, test = network().to(DEVICE), smooth(64, 9)
    none = error(octify.convert(model, smooth(1, 0), rules="everywhere"), model, test)
    for images in ("synthetic", smooth(12, 3)):
        assert error(calibrated(model.to(DEVICE), effort, images), model, test) < none


def test_the_same_seed_gives_the_same_channels_and_nearly_the_same_weights() -> None:
    model = network().to(DEVICE)
    first, second = (calibrated(model, "standard", smooth(48, 3)) for _ in range(2))
    assert first.plan == second.plan
    other = second.model.state_dict()
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(value, other[name], rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_real_models(name: str) -> None:
    entry = BY_NAME[name]
    model = build(name).to(DEVICE)
    images = entry.example(entry.small, batch=8)
    found = octify.convert(model, images[:1], calibration=[images], effort="fast")
    assert found.report.calibration is not None
    assert found.report.calibration.after.relative_error < 2
    assert {t.device.type for t in found.model.state_dict().values()} == {DEVICE}


def test_a_target_is_met() -> None:
    model = network().to(DEVICE)
    found = octify.convert(
        model, smooth(1, 0), rules="everywhere", calibration=[smooth(48, 3)], target_macs=0.7
    )
    totals = found.report.totals
    assert totals.macs_after <= 0.7 * totals.macs_before


def test_saved_and_exported_from_the_device(tmp_path: Path) -> None:
    model = network().to(DEVICE)
    result = calibrated(model, "fast", smooth(48, 3))
    result.save(tmp_path / "out")
    x = smooth(4, 5)
    with torch.no_grad():
        wanted = result.model(x.to(DEVICE)).cpu()
    loaded = octify.load(tmp_path / "out", copy.deepcopy(model).cpu())
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), wanted, rtol=1e-4, atol=1e-4)
    octify.export_onnx(result.model, x[:1], tmp_path / "model.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(given, wanted.numpy(), rtol=1e-3, atol=1e-4)
    assert {p.device.type for p in result.model.parameters()} == {DEVICE}


def test_device_of_the_command_line(octify_cli: OctifyCli, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((48, 3, 32, 32), dtype=np.float32))
    options = ("net.py", "--calib", "x.npy", "--calib-effort", "fast", "--rules", "everywhere")
    there = octify_cli("convert", *options, "-o", "there", "--onnx", "there.onnx", "--device", DEVICE)
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


def test_tuning_in_half_precision(octify_cli: OctifyCli, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    generator = np.random.default_rng(0)
    np.savez(
        tmp_path / "x.npz",
        inputs=generator.standard_normal((96, 3, 32, 32), dtype=np.float32),
        labels=generator.integers(0, 10, 96),
    )
    assert octify_cli("convert", "net.py", "--rules", "everywhere", "-o", "out").returncode == 0
    for precision in ("no", "bf16", "fp16"):
        tuned = octify_cli(
            "tune", "out", "--data", "x.npz", "--labels", "none", "--steps", "60", "--precision", precision,
            "-o", precision, "--json",
        )  # fmt: skip
        assert tuned.returncode == 0, tuned.stderr
        row = json.loads(tuned.stdout)["tuning"]
        assert row["precision"] == precision
        assert row["after"]["relative_error"] < row["before"]["relative_error"]


def test_a_device_that_is_not_there(octify_cli: OctifyCli, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    refused = octify_cli("convert", "net.py", "--calib", "synthetic", "--device", "cuda:99", "-o", "out")
    assert refused.returncode == 2
    assert "there is no device cuda:99 here" in refused.stderr
    assert not (tmp_path / "out").exists()
