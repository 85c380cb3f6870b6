"""Calibration through the library: what it takes, what it refuses, and what comes out of it."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.calibrate.inputs.images import gather
from octify.errors import OctifyError
from octify.report.calibration import CalibrationRow
from octify.trace import trace

pytestmark = pytest.mark.usefixtures("short_calibration")


class Small(nn.Module):
    """A residual network with settled norms for smooth 16x16 images."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()

        def bn(channels: int) -> nn.Module:
            return nn.BatchNorm2d(channels) if norm else nn.Identity()

        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), bn(16), nn.ReLU())
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn1 = bn(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2 = bn(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return self.head(F.relu(x + self.bn2(self.conv2(y))).mean((2, 3)))


def smooth(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(count, 3, 6, 6, generator=generator), size=16, mode="bilinear")


def settled(norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = Small(norm).train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the average of all passes
    with torch.no_grad():
        for seed in range(3):
            model(smooth(64, seed))
    return model.eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return settled()


def calibrated(net: nn.Module, data: object, **options: object) -> octify.Result:
    return octify.convert(net, smooth(1), rules="everywhere", calibration=data, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("effort", ["norm", "fast", "standard", "thorough"])
def test_every_effort_lowers_the_output_error(net: nn.Module, effort: str) -> None:
    state = copy.deepcopy(net.state_dict())
    report = calibrated(net, [smooth(64, 7)], effort=effort).report
    found = report.calibration
    assert found is not None
    assert (found.effort, found.images, found.measured_on, found.held_out) == (effort, 56, 8, True)
    assert found.after.relative_error < found.before.relative_error
    assert found.after.agreement is not None
    assert "not calibrated" not in " ".join(report.warnings)
    assert report.to_dict()["calibration"]["after"]["relative_error"] == found.after.relative_error
    assert "relative output error" in str(report)
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(parameter.grad is None for parameter in net.parameters())


def test_more_effort_is_better_on_other_images(net: nn.Module) -> None:
    x, test = smooth(128, 7), smooth(256, 8)
    wanted = net(test)
    plain = octify.convert(net, smooth(1), rules="everywhere").model(test)
    fast, standard = (calibrated(net, [x], effort=e).model(test) for e in ("fast", "standard"))
    errors = [float((y - wanted).detach().norm()) for y in (plain, fast, standard)]
    assert errors[1] < errors[0]
    assert errors[2] < errors[0]


def test_the_same_seed_gives_the_same_model(net: nn.Module) -> None:
    x = smooth(40, 7)
    results = [calibrated(net, [x], effort="standard", seed=seed) for seed in (1, 1, 2)]
    first, again, other = (torch.cat([p.flatten() for p in r.model.parameters()]) for r in results)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_saved_and_loaded_it_is_the_same(net: nn.Module, tmp_path: Path) -> None:
    result = calibrated(net, [smooth(48, 7)])
    result.save(tmp_path / "out")
    loaded = octify.load(tmp_path / "out", settled())
    x = smooth(4, 9)
    assert torch.equal(loaded(x), result.model(x))
    assert octify.load(tmp_path / "out", net).training is False


def test_biases_that_calibration_adds_are_loaded(tmp_path: Path) -> None:
    net = settled(norm=False)
    result = calibrated(net, [smooth(48, 7)])
    assert any(name == "conv1.high_to_high.bias" for name, _ in result.model.named_parameters())
    result.save(tmp_path / "out")
    x = smooth(4, 9)
    assert torch.equal(octify.load(tmp_path / "out", net)(x), result.model(x))


def test_the_exported_file_equals_the_calibrated_model(net: nn.Module, tmp_path: Path) -> None:
    result = calibrated(net, [smooth(48, 7)])
    exported = octify.export_onnx(result.model, smooth(2), tmp_path / "net.onnx")
    assert exported.max_abs_error <= exported.tolerance


def test_a_calibrated_plan_is_replayed(net: nn.Module) -> None:
    result = calibrated(net, [smooth(48, 7)])
    again = octify.convert(net, smooth(1), plan=result.plan)
    assert again.plan == result.plan


def test_training_mode_is_kept() -> None:
    net = settled().train()
    assert calibrated(net, [smooth(32)]).model.training
    assert net.training


def test_synthetic_images_do(net: nn.Module) -> None:
    found = calibrated(net, "synthetic").report.calibration
    assert found is not None
    assert found.synthetic
    assert found.after.relative_error < found.before.relative_error


def endless() -> Iterator[tuple[Tensor, Tensor]]:
    for seed in itertools.count():
        yield smooth(8, seed), torch.zeros(8, dtype=torch.int64)


def test_data_in_every_form() -> None:
    net = settled()
    traced = trace(net, smooth(1))
    x = smooth(24)
    cpu = torch.device("cpu")
    for data in ([x], list(x), [(x, torch.zeros(24))], iter([x[:10], x[10:]]), x):
        found = gather(traced, data, device=cpu)
        assert found.count + sum(len(c[0]) for c in found.held_out) == 24
    assert gather(traced, endless(), most=64, device=cpu).count == 56


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    x = smooth(40)
    x[3, 0, 2, 2] = float("nan")
    x[5] = float("inf")
    found = gather(trace(settled(), smooth(1)), [x], device=torch.device("cpu"))
    assert found.count + sum(len(c[0]) for c in found.held_out) == 38
    assert any("2 calibration inputs had NaN" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no usable"),
        ([torch.full((2, 3, 16, 16), float("nan"))], "no usable"),
        ([torch.zeros(2, 4, 16, 16)], "has shape 2x4x16x16"),
        (["cat.jpg"], "not an input"),
        ("photos", "not known"),
    ],
)
def test_data_that_cannot_be_used(net: nn.Module, data: object, message: str) -> None:
    with pytest.raises(OctifyError, match=message):
        calibrated(net, data)


def test_wrong_words(net: nn.Module) -> None:
    with pytest.raises(OctifyError, match="no effort 'huge'"):
        calibrated(net, [smooth(2)], effort="huge")
    with pytest.raises(OctifyError, match="no channel order 'first'"):
        calibrated(net, [smooth(2)], channel_order="first")


def test_few_images_constant_and_dead_channels_give_a_sane_answer(net: nn.Module) -> None:
    odd = copy.deepcopy(net)
    with torch.no_grad():
        odd.bn1.weight[3] = 0  # a constant channel
        odd.bn1.bias[3] = 0.7
        odd.bn1.weight[4] = 0  # never positive: dead behind its ReLU
        odd.bn1.bias[4] = -5
        odd.stem[0].weight[2] = 0
    result = calibrated(odd, [smooth(3, 7)])
    test = smooth(32, 8)
    plain = octify.convert(odd, smooth(1), rules="everywhere").model(test)
    wanted = odd(test)
    y = result.model(test)
    assert torch.isfinite(y).all()
    assert (y - wanted).norm() < 1.5 * (plain - wanted).norm()
    assert any("are few" in warning for warning in result.report.warnings)


def test_parameters_stay_and_training_goes_on(net: nn.Module) -> None:
    model = calibrated(net, [smooth(48, 7)]).model.train()
    x, y = smooth(16, 3), torch.arange(16) % 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_off_around_it(net: nn.Module, mode: type[torch.no_grad]) -> None:
    expected = calibrated(net, [smooth(64, 7)]).report.calibration
    with mode():
        row = calibrated(net, [smooth(64, 7)]).report.calibration
    assert row is not None and expected is not None
    assert timeless(row) == timeless(expected)


def timeless(row: CalibrationRow) -> CalibrationRow:
    """``row`` without the seconds that its sentence on distillation names."""
    assert row.distillation is not None
    return replace(row, distillation=re.sub(r" in \d+ s", "", row.distillation))
