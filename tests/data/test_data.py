"""Calibration data that is odd, scarce or broken: taken as a user would want, or refused with the reason."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import octify
from octify.calibrate import recipe
from octify.calibrate.inputs.images import gather
from octify.errors import OctifyError
from octify.trace import trace
from tests.calibrate.test_recipe import settled, smooth

pytestmark = pytest.mark.usefixtures("short_calibration")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return settled()


def convert(model: nn.Module, data: Any, effort: str = "fast", *, example: Any = None) -> octify.Result:
    example = smooth(1) if example is None else example
    return octify.convert(model, example, rules="everywhere", calibration=data, effort=effort)


def rows(model: nn.Module, data: Any, example: Any = None) -> tuple[Tensor, ...]:
    """The model's inputs that are gathered from ``data``, in order."""
    found = gather(trace(model, smooth(1) if example is None else example), data, device=CPU)
    assert not found.held_out
    return tuple(torch.cat(parts) for parts in zip(*found.chunks, strict=True))


class Endless(Dataset[Tensor]):
    """A dataset that does not mind what number it is asked for."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index % len(self.x)]


class Two(nn.Module):
    """Two images and a number for each."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return self.conv(torch.relu(self.left(image) + self.right(other)))


def test_whatever_holds_the_inputs_gives_the_same_inputs(net: nn.Module) -> None:
    x, y = smooth(20), torch.arange(20)
    forms: dict[str, Any] = {
        "a generator": (part for part in x.split(7)),
        "a loader of tuples": DataLoader(TensorDataset(x, y), batch_size=6),
        "a loader of dicts": DataLoader(
            [{"x": a, "label": b} for a, b in zip(x, y, strict=True)], batch_size=6
        ),
        "dicts with another name": [{"label": y, "pixel_values": x}],
        "a dict and labels": [({"x": x}, y)],
        "nested tuples": [((x,), y)],
        "a dataset": TensorDataset(x, y),
        "an endless dataset": Endless(x),
        "an array": x.numpy(),
        "arrays": [(part.numpy(), 0) for part in x.split(3)],
        "double precision": [x.double()],
    }
    for name, data in forms.items():
        (found,) = rows(net, data)
        assert torch.equal(found, x), name


def test_several_inputs_by_place_or_by_name() -> None:
    model, a, b = Two().eval(), smooth(10, 1), smooth(10, 2)
    example = (smooth(1), smooth(1))
    for data in ([(a, b)], [((a, b), 0)], [{"other": b, "image": a}], list(zip(a, b, strict=True))):
        found = rows(model, data, example)
        assert torch.equal(found[0], a)
        assert torch.equal(found[1], b)
    result = convert(model, [(smooth(48, 1), smooth(48, 2))], example=example)
    calibration = result.report.calibration
    assert calibration is not None
    assert calibration.after.relative_error < calibration.before.relative_error
    for data, message in (
        ([(a, b[:4])], r"different batch sizes\n  why: +they are \[10, 4\]"),
        ([{"image": a, "depth": b}], r"the model takes image, other; it holds image: 10x3x16x16, depth"),
    ):
        with pytest.raises(OctifyError, match=message):
            rows(model, data, example)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([torch.zeros(4, 3, 16, 16, dtype=torch.uint8)], "item 0 .* is uint8"),
        ([smooth(2), torch.zeros(4, 3, 16, 16, dtype=torch.int64)], "item 1 .* is int64"),
        ([smooth(2).to(torch.complex64)], "is complex64"),
        ([smooth(2).permute(0, 2, 3, 1)], r"has shape 2x16x16x3(.|\n)*x.movedim\(-1, 1\)"),
        ([smooth(2)[0].permute(1, 2, 0)], r"has shape 16x16x3(.|\n)*x.movedim\(-1, 0\)"),
        ([smooth(2)[:, :1]], "has shape 2x1x16x16"),
        ([torch.zeros(2, 3, 0, 16)], "has shape 2x3x0x16"),
        ([torch.zeros(2, 3, 16)], "has shape 2x3x16"),
        ([{"a": smooth(2), "b": smooth(2)}], "not clear what in it is the model's input"),
        ([{"label": 3}], "it holds no tensor"),
        ({"x": smooth(2)}, "it is a str"),
        (3, "calibration data is a int"),
        (Path("photos"), "octify convert --calib reads folders"),
    ],
)
def test_what_is_no_input_is_refused_by_its_number(net: nn.Module, data: Any, message: str) -> None:
    with pytest.raises(OctifyError, match=message):
        convert(net, data)


def test_an_error_of_the_users_own_iterable_is_the_users(net: nn.Module) -> None:
    def broken() -> Iterator[Tensor]:
        yield smooth(8)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        convert(net, broken())


def test_values_that_are_not_finite_are_named_by_number(net: nn.Module) -> None:
    x = smooth(40, 7)
    x[3, 0, 2, 2] = float("nan")
    x[17] = float("inf")
    report = convert(net, [x[:10], x[10:]]).report
    assert any("2 calibration inputs had NaN" in w and "numbers 3, 17," in w for w in report.warnings)
    kept = torch.cat([x[:3], x[4:17], x[18:]])
    clean = convert(net, [kept]).report
    assert clean.calibration == report.calibration


class Flat(nn.Module):
    """A network for images of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(torch.relu(self.conv1(x))).flatten(1))


def test_other_sizes_are_taken_where_the_model_takes_them(net: nn.Module) -> None:
    odd = F.interpolate(smooth(20, 2), size=(17, 22), mode="bilinear")
    found = convert(net, [smooth(24, 1), odd]).report.calibration
    assert found is not None
    assert found.after.relative_error < found.before.relative_error
    with pytest.raises(OctifyError, match="rejects calibration inputs of 3x17x22"):
        convert(Flat().eval(), [smooth(24, 1), odd])


class Maps(nn.Module):
    """What a segmentation or detection network gives: see ``form``."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.net, self.form = settled(), form
        self.map = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Any:
        f = self.net.stem(x)
        f = torch.relu(f + self.net.bn2(self.net.conv2(torch.relu(self.net.bn1(self.net.conv1(f))))))
        y, logits = self.map(f), self.net.head(f.mean((2, 3)))
        forms = {
            "dict": {"out": y, "aux": logits},
            "list": [y, F.avg_pool2d(y, 2), None],
            "with classes": (logits, y.argmax(1)),
            "one number": (y, logits.sum()),
            "classes": {"out": y.argmax(1)},
        }
        return forms[self.form]


@pytest.mark.parametrize("form", ["dict", "list", "with classes", "one number"])
def test_outputs_of_any_form(form: str) -> None:
    torch.manual_seed(0)
    other = F.interpolate(smooth(16, 2), size=20, mode="bilinear")  # so maps of two sizes are measured
    found = convert(Maps(form).eval(), [smooth(32, 1), other]).report.calibration
    assert found is not None
    assert found.measured_on == 6
    assert found.after.relative_error < found.before.relative_error


def test_a_model_that_only_gives_classes_cannot_be_measured() -> None:
    with pytest.raises(OctifyError, match="no floating point output"):
        convert(Maps("classes").eval(), [smooth(40, 1)])


@pytest.fixture
def in_float32(net: nn.Module) -> float:
    """The error that calibration ends with in float32."""
    found = convert(net, [smooth(40, 7)], "standard").report.calibration
    assert found is not None
    return found.after.relative_error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_every_precision_end_where_float32_does(
    net: nn.Module, in_float32: float, dtype: torch.dtype
) -> None:
    model = copy.deepcopy(net).to(dtype)
    result = convert(model, [smooth(40, 7)], "standard", example=smooth(1).to(dtype))
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert result.report.calibration is not None
    found = result.report.calibration.after.relative_error
    # The output of a model in low precision errs by about one rounding at each of its ~10 steps.
    noise = 10 * torch.finfo(dtype).eps
    assert abs(found - in_float32) < 0.05 * in_float32 + noise


def test_large_activations_in_half_precision() -> None:
    """Sums of squares over thousands of positions, and variances, that float16 has no numbers for."""
    model = settled()
    with torch.no_grad():
        for part in (model.stem[1], model.bn1):  # type: ignore[index, union-attr]
            part.weight *= 30  # type: ignore[operator]
            part.bias *= 30  # type: ignore[operator]
        model.head.weight /= 900  # type: ignore[operator, union-attr]
    found = convert(model.half(), [smooth(40, 7)], example=smooth(1).half()).report.calibration
    assert found is not None
    assert found.after.relative_error < found.before.relative_error
    assert not found.uncalibrated


def test_distillation_in_half_precision(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "STEPS", {"thorough": 20})
    result = convert(copy.deepcopy(net).half(), [smooth(40, 7)], "thorough", example=smooth(1).half())
    found = result.report.calibration
    assert found is not None
    assert found.after.relative_error < found.before.relative_error
    assert {p.dtype for p in result.model.parameters()} == {torch.float16}


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_images_do_no_harm(net: nn.Module, count: int) -> None:
    test = smooth(128, 8)

    def error(data: Any, effort: str = "fast") -> float:
        with torch.no_grad():
            wanted = net(test)
            return float((convert(net, data, effort).model(test) - wanted).norm() / wanted.norm())

    result = convert(net, [smooth(count, 100)])
    assert any(f"{count} calibration input(s) are few" in w for w in result.report.warnings)
    allowed = max(error(None), error([smooth(count, 100)], "norm"))
    assert error([smooth(count, 100)]) <= allowed
    assert error([smooth(count, 100)], "standard") <= allowed


def degenerate(model: nn.Module, kind: str) -> nn.Module:
    with torch.no_grad():
        if kind == "a constant input channel":
            model.stem[0].weight[:, 0] = 0  # type: ignore[index, union-attr]
        elif kind == "a dead channel":
            model.bn1.weight[4], model.bn1.bias[4] = 0, -5  # type: ignore[index, union-attr]
        elif kind == "no variance":
            model.conv1.weight[3] = 0  # type: ignore[index, union-attr]
            model.bn1.running_var[3], model.bn1.running_mean[3] = 0, 0  # type: ignore[index, union-attr]
        else:
            model.bn2.weight.zero_()  # type: ignore[union-attr, operator]
    return model


@pytest.mark.parametrize(
    "kind", ["a constant input channel", "a dead channel", "no variance", "no gamma at all"]
)
@pytest.mark.parametrize("effort", ["fast", "standard"])
def test_degenerate_channels(kind: str, effort: str) -> None:
    model = degenerate(settled(), kind)
    x = smooth(48, 7)
    x[:, 0] = 0.5 if kind == "a constant input channel" else x[:, 0]
    result = convert(model, [x], effort)
    found = result.report.calibration
    assert found is not None
    assert all(bool(p.isfinite().all()) for p in result.model.state_dict().values())
    assert all(layer.after <= layer.before + 1e-4 for layer in found.layers)
    # Without gamma nothing but the stem reaches the output, through its mean over all positions, which hinge
    # refits and greedy channels, made for the error at each position, do not spare.
    if (kind, effort) != ("no gamma at all", "standard"):
        assert found.after.relative_error < found.before.relative_error


def test_exact_kernels_where_nothing_can_be_synthesised() -> None:
    model, x = settled(norm=False), smooth(64, 9)
    with torch.no_grad():
        wanted = model(x)
        results = [convert(model, data) for data in ("synthetic", None)]
        errors = [float((r.model(x) - wanted).norm()) for r in results]
    exact, paper = results
    assert exact.plan.kernels == "exact"
    assert exact.report.calibration is None
    assert any("has none: it is not calibrated" in w for w in exact.report.warnings)
    reference = octify.reference(model, exact.plan, smooth(1))
    torch.testing.assert_close(exact.model(x), reference(x), rtol=1e-4, atol=1e-5)
    assert errors[0] < errors[1]
    with pytest.raises(OctifyError, match="needs BatchNorm"):
        octify.convert(model, smooth(1), plan=paper.plan, calibration="synthetic")
    with pytest.raises(OctifyError, match="needs BatchNorm"):
        octify.convert(model, smooth(1), target_macs=0.7, calibration="synthetic", rules="everywhere")
