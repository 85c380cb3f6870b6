"""On another device: calibration says what it says on the CPU, and what comes of it works everywhere.

Everything runs on a device that is only claimed (other_device.py) and, where there is one, on a CUDA device,
with TF32 off: what is compared is float32's noise.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octify
from octify.calibrate import recipe
from octify.calibrate.inputs import few, synthetic
from tests.calibrate.fit.test_kinds import KINDS, RELATIVES, sides, smooth
from tests.models.zoo import BY_NAME, NAMES, build, settle
from tests.other_device import other_device

pytestmark = pytest.mark.usefixtures("short_calibration", "there")
real_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda"
# Of the error that calibration leaves. The stand-in computes what the CPU computes; a GPU sums in another
# order, and a few hundred steps of Adam go on from there.
NOISE = {"claimed": 1e-3, "real": 0.05}


@pytest.fixture(params=["claimed", pytest.param("real", marks=real_device)])
def there(request: pytest.FixtureRequest) -> Iterator[str]:
    """``"cuda"`` is a device: which kind of."""
    if request.param == "claimed":
        with other_device():
            yield request.param
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield request.param
    torch.backends.cudnn.allow_tf32 = before


def network(kind: str = "residual") -> nn.Module:
    """One of the small networks that calibration is tested with, on the CPU."""
    torch.manual_seed(0)
    model = KINDS[kind]()
    settle(model, [smooth(64, seed, sides(kind)) for seed in (1, 2)])
    return model


def calibrated(model: nn.Module, effort: str, images: Tensor | str) -> octify.Result:
    """``model``, where it is, converted and calibrated."""
    data, example = (images, smooth(1, 0)) if isinstance(images, str) else ([images], images[:1])
    return octify.convert(model, example, rules="everywhere", calibration=data, effort=effort)


def devices(model: nn.Module) -> set[str]:
    tensors = (*model.parameters(), *model.buffers())
    return {tensor.device.type for tensor in tensors}


@torch.no_grad()
def error(result: octify.Result, model: nn.Module, test: Tensor) -> float:
    """The relative output error, on the CPU."""
    wanted = model.cpu()(test)
    given = result.model.cpu()(test)
    return float((given - wanted).norm() / (wanted - wanted.mean(0)).norm())


CASES = [(kind, effort) for kind in KINDS for effort in ("norm", "fast", "standard")]


def dear(kind: str, effort: str) -> bool:
    """What the default suite leaves to ``-m zoo``."""
    return kind in RELATIVES if effort == "standard" else kind != "grouped"


@pytest.mark.parametrize(
    ("kind", "effort"), [pytest.param(*case, marks=[pytest.mark.zoo] * dear(*case)) for case in CASES]
)
def test_calibration_is_as_good_as_on_the_cpu(kind: str, effort: str, there: str) -> None:
    model, test, images = network(kind), smooth(64, 9, sides(kind)), smooth(48, 3, sides(kind))
    here = error(calibrated(model, effort, images), model, test)
    moved = copy.deepcopy(model).to(DEVICE)
    result = calibrated(moved, effort, images)
    assert devices(result.model) == devices(moved) == {DEVICE}
    found = error(result, model, test)
    assert abs(found - here) < NOISE[there] * here, (found, here)


@pytest.mark.parametrize("images", ["synthetic", "few"])
def test_images_that_are_made_or_few(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "ENOUGH", 64)
    short = functools.partial(synthetic.synthetic_images, count=64, steps=20)
    monkeypatch.setattr(recipe, "synthetic_images", short)
    model, test = network().to(DEVICE), smooth(64, 9)
    none = error(octify.convert(model, smooth(1, 0), rules="everywhere"), model, test)
    data = smooth(20, 3) if images == "few" else images
    assert error(calibrated(model.to(DEVICE), "standard", data), model, test) < none


def test_the_same_seed_gives_the_same_channels_and_nearly_the_same_weights() -> None:
    model = network().to(DEVICE)
    first, second = (calibrated(model, "standard", smooth(48, 3)) for _ in range(2))
    assert first.plan == second.plan
    other = second.model.state_dict()
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(value.cpu(), other[name].cpu(), rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.zoo] * (name != "torchvision:resnet18")) for name in NAMES],
)
def test_real_models(name: str) -> None:
    entry = BY_NAME[name]
    model = build(name).to(DEVICE)
    images = entry.example(entry.small, batch=4)
    found = octify.convert(model, images[:1], calibration=[images], effort="fast")
    assert found.report.calibration is not None
    assert devices(found.model) == {DEVICE}
    with torch.no_grad():
        assert bool(torch.isfinite(found.model(images.to(DEVICE))).all())


@pytest.mark.zoo
def test_a_target_is_met() -> None:
    found = octify.convert(
        network().to(DEVICE), smooth(1, 0), rules="everywhere", calibration=[smooth(48, 3)], target_macs=0.7
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
    assert devices(result.model) == {DEVICE}
