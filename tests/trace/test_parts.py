"""Models that cannot be traced as a whole: their parts are converted, their own code stays as it is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import octify
from octify.compare.oracles import enlivened
from octify.errors import OctifyError, PlanError, TraceError
from octify.nn import OctaveConv2d
from octify.trace import trace
from tests.oracle import error, noise


class Body(nn.Module):
    """A small backbone: a dict of two feature maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x).relu()
        x = x + self.b(self.norm(self.a(x)).relu())
        return {"fine": x, "coarse": self.down(x).relu()}


class Head(nn.Module):
    """Convolutions over a list of levels, one list of results for each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.score = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, features: list[Tensor], *, scale: float = 1.0) -> dict[str, list[Tensor]]:
        return {"scores": [self.score(self.conv(f).relu()) * scale for f in features]}

    def loss(self, outputs: dict[str, list[Tensor]]) -> Tensor:
        return sum((s.square().mean() for s in outputs["scores"]), torch.tensor(0.0))


class Step(nn.Module):
    """Called again and again, at several sizes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU())
        self.outer = nn.Conv2d(16, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x))


class Detector(nn.Module):
    """Loops over images, decides by values, calls one convolution itself, shares its last step."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.body = Body(channels)
        self.head = Head(channels)
        self.lonely = nn.Conv2d(4, 4, 1)
        self.steps = nn.ModuleList([Step(4), Step(4)])
        self.spare = nn.Conv2d(3, 3, 1)
        self.mix = nn.Parameter(torch.ones(4, 4))

    def forward(self, images: Tensor, targets: Tensor | None = None) -> dict[str, Any]:
        x = torch.stack([image * 2 for image in images])
        features = self.body(x)
        outputs = self.head(list(features.values()), scale=0.5)
        if self.training:
            return {"loss": self.head.loss(outputs)}
        y = self.lonely(outputs["scores"][0])
        for step in self.steps:
            y = step(y)
        y = self.steps[0](y[..., ::2, ::2])
        if float(y.abs().max()) > 1e9:
            y = -y
        return {"scores": outputs["scores"], "mixed": torch.einsum("nchw,cd->ndhw", y, self.mix)}


PATHS = ["body", "head", "lonely", "steps.0", "steps.1"]


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return enlivened(Detector())[0].double().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return noise(2, 3, 16, 16)


def differences(model: nn.Module, other: nn.Module, x: Tensor) -> list[float]:
    with torch.no_grad():
        ours, theirs = model(x), other(x)
    assert ours.keys() == theirs.keys() and len(ours["scores"]) == len(theirs["scores"])
    return [error(a, b) for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True)]


def test_the_parts(detector: Detector, x: Tensor) -> None:
    parts = trace(detector, x).parts
    assert parts is not None
    assert [part.path for part in parts.members] == PATHS
    assert [part.path for part in parts.members if part.alone] == ["lonely"]
    calls = {part.path: sum(part.calls.values()) for part in parts.members}
    assert calls == dict.fromkeys(PATHS, 1) | {"steps.0": 2}
    assert "test_parts.py:" in (parts.failure.where or "")
    assert parts.stopped is None
    # einsum over 2 x 4 x 8 x 8 values, 4 products each
    assert parts.rest_macs == 2 * 4 * 8 * 8 * 4


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_exact_kernels_equal_the_reference(detector: Detector, x: Tensor, alpha: float) -> None:
    result = octify.convert(detector, x, alpha, rules="everywhere", kernels="exact")
    assert isinstance(result.model.body.a, OctaveConv2d)
    assert isinstance(result.model.head.conv, OctaveConv2d)
    assert isinstance(result.model.steps[1].inner[0], OctaveConv2d)
    reference = octify.reference(detector, result.plan, x)
    for each in (x, noise(3, 3, 16, 16, seed=2), noise(1, 3, 32, 16, seed=3)):
        assert max(differences(result.model, reference, each)) < 1e-10
    assert min(differences(result.model, detector, x)) > 1e-6  # the reference projects indeed


def test_alpha_0_is_the_model(detector: Detector, x: Tensor) -> None:
    result = octify.convert(detector, x, 0.0, rules="everywhere")
    assert max(differences(result.model, detector, x)) == 0.0


def test_classes_attributes_and_paths_stay(detector: Detector, x: Tensor) -> None:
    result = octify.convert(detector, x, 0.5, rules="everywhere")
    model = result.model
    assert type(model) is Detector
    assert isinstance(model.head, Head) and type(model.head).__name__ == "Head"
    assert {path for path, _ in detector.named_modules()} <= {path for path, _ in model.named_modules()}
    assert type(detector.head) is Head and isinstance(detector.head.conv, nn.Conv2d)
    model.train()
    loss = model(x)["loss"]
    loss.backward()
    gradients = [
        p.grad is not None for name, p in model.named_parameters() if name.startswith(("body", "head"))
    ]
    assert all(gradients) and len(gradients) > 10


def test_a_copy_and_a_saved_one(detector: Detector, x: Tensor, tmp_path: Path) -> None:
    result = octify.convert(detector, x, 0.5, rules="everywhere")
    duplicate = copy.deepcopy(result.model)
    assert max(differences(duplicate, result.model, x)) == 0.0
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    assert max(differences(duplicate, result.model, x)) > 0.0
    result.save(tmp_path)
    loaded = octify.load(tmp_path, Detector().double().eval())
    assert max(differences(loaded, result.model, x)) == 0.0
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(
        json.dumps(result.report.to_dict())
    )


def test_a_plan_is_replayed(detector: Detector, x: Tensor) -> None:
    first = octify.convert(detector, x, 0.5, rules="everywhere", kernels="exact")
    again = octify.convert(detector, x, plan=octify.Plan.from_dict(first.plan.to_dict()))
    assert again.report.totals == first.report.totals
    assert max(differences(again.model, first.model, x)) == 0.0
    with pytest.raises(PlanError, match="does not fit"):
        octify.convert(Detector(8).double(), x, plan=first.plan)
    with pytest.raises(TraceError, match="it stopped: RuntimeError") as caught:
        octify.convert(Detector(), x)  # float32, and x is float64
    assert "test_parts.py:" in (caught.value.where or "")


def test_calibration_says_that_it_cannot(detector: Detector, x: Tensor) -> None:
    with pytest.raises(OctifyError, match="Detector cannot be calibrated") as caught:
        octify.convert(detector, x, calibration=[x])
    assert "converted in parts" in (caught.value.why or "")


def test_full_paths_in_rules_and_reports(detector: Detector, x: Tensor) -> None:
    result = octify.convert(detector, x, 0.5, rules="everywhere", exclude=["head.*"])
    left = {entry.path: entry.reason for entry in result.report.left_dense}
    assert left.keys() == {"head.conv", "head.score", "lonely", "spare"}
    assert "excluded" in left["head.conv"]
    assert "code that cannot be traced" in left["lonely"]
    assert "not called" in left["spare"]
    assert type(result.model.head) is Head
    (told,) = [text for text in result.report.warnings if "cannot be traced" in text]
    assert "Detector" in told and "test_parts.py:" in told and "body, head, steps.0, steps.1" in told


def test_a_part_refuses_calls_of_another_form(detector: Detector, x: Tensor) -> None:
    model = octify.convert(detector, x, 0.5, rules="everywhere").model
    levels = [noise(1, 16, 8, 8), noise(1, 16, 4, 4)]
    with torch.no_grad():
        assert len(model.head(features=levels, scale=0.5)["scores"]) == 2
        with pytest.raises(ValueError, match="was converted for a call of the form"):
            model.head(levels[:1], scale=0.5)
        with pytest.raises(ValueError, match="was converted for a call of the form"):
            model.head(levels, scale=0.25)


def test_only_what_is_called_whole_becomes_a_part(x: Tensor) -> None:
    """A block whose inside is also called from outside is gone into."""

    class Reaches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Body(16)
            self.step = Step(16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)["fine"]
            y = self.step(y) if y.sum() > 0 else -self.step(y)
            return self.step.inner(y)

    traced = trace(Reaches().double().eval(), x)
    assert traced.parts is not None
    assert [part.path for part in traced.parts.members] == ["body", "step.inner", "step.outer"]
    model = enlivened(Reaches())[0].double().eval()
    result = octify.convert(model, x, 0.5, rules="everywhere", kernels="exact")
    reference = octify.reference(model, result.plan, x)
    with torch.no_grad():
        assert error(result.model(x), reference(x)) < 1e-10


def test_a_run_that_fails_half_way(x: Tensor) -> None:
    class Breaks(Detector):
        def forward(self, images: Tensor, targets: Tensor | None = None) -> dict[str, Any]:
            features = self.body(torch.stack(list(images)))
            raise RuntimeError("no such operator") if float(features["fine"].sum()) > -1e9 else ValueError

    result = octify.convert(Breaks().double().eval(), x, 0.5, rules="everywhere")
    assert {conv.path for conv in result.plan.convs if conv.converted} == {
        f"body.{name}" for name in ("stem", "a", "b", "down")
    }
    assert any("no such operator" in text and "test_parts.py:" in text for text in result.report.warnings)
    left = {entry.path: entry.reason for entry in result.report.left_dense}
    assert "no such operator" in left["head.conv"]


@pytest.mark.parametrize("fixes", [True, False])
def test_parts_are_preferred_to_a_graph_for_one_size(x: Tensor, fixes: bool) -> None:
    """A loop over positions fixes their number; a check leaves a graph for all sizes that pass it."""

    class Pads(nn.Module):
        def __init__(self, flat: bool) -> None:
            super().__init__()
            self.flat = flat
            self.step = Step(3)

        def forward(self, x: Tensor) -> Tensor:
            if fixes:
                x = torch.stack([x[..., i] for i in range(x.shape[3])], 3)
            elif x.shape[3] % 4:
                x = nn.functional.pad(x, (0, 4 - x.shape[3] % 4))
            return self.step.outer(self.step.inner(x)) if self.flat else self.step(x)

    in_parts, whole = (
        trace(Pads(False).eval(), torch.zeros(1, 3, 8, 8)),
        trace(Pads(True).eval(), torch.zeros(1, 3, 8, 8)),
    )
    assert (in_parts.parts is not None) == fixes
    assert [each.path for each in in_parts.fixed_sizes] == ([] if fixes else [""])
    assert whole.parts is None and [each.path for each in whole.fixed_sizes] == [""]
    assert whole.fixed_sizes[0].fixes == fixes


DETECTION: dict[str, Any] = {"weights_backbone": None, "min_size": 64, "max_size": 64}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn", {"backbone", "rpn.head"}),
        pytest.param("maskrcnn_resnet50_fpn", {"backbone", "rpn.head"}, marks=pytest.mark.zoo),
        pytest.param("retinanet_resnet50_fpn", {"backbone", "head"}, marks=pytest.mark.zoo),
        pytest.param("fcos_resnet50_fpn", {"backbone", "head"}, marks=pytest.mark.zoo),
    ],
)
def test_detection(name: str, paths: set[str]) -> None:
    """The backbone and what it feeds; torchvision's own operators need not be there."""
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(name, weights=None, **DETECTION).double().eval()
    image = noise(1, 3, 64, 64)
    result = octify.convert(model, image, 0.5, rules="everywhere", kernels="exact")
    parts = trace(model, image).parts
    assert parts is not None
    assert {part.path for part in parts.members} >= paths
    assert result.report.totals.macs_after < 0.75 * result.report.totals.macs_before
    reference = octify.reference(model, result.plan, image)
    with torch.no_grad():
        got, wanted = result.model.backbone(image), reference.backbone(image)
    assert type(got) is type(wanted) and got.keys() == wanted.keys()
    for name in list(got)[:2]:  # the coarser maps are of odd sizes: their borders differ
        assert error(got[name], wanted[name]) < 1e-9


def test_raft() -> None:
    """Twelve rounds of one step, converted once."""
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model("raft_small", weights=None).eval()
    images = (noise(1, 3, 128, 128).float(), noise(1, 3, 128, 128, seed=1).float())
    result = octify.convert(model, images, 0.5, kernels="exact")
    traced = trace(model, images)
    assert traced.parts is None and not traced.opaque
    assert len(traced.calls("update_block.flow_head.conv2")) == 12
    reference = octify.reference(model, result.plan, images)
    with torch.no_grad():
        flows, wanted = result.model(*images), reference(*images)
    assert len(flows) == len(wanted) == 12
    assert error(flows[0], wanted[0]) < 1e-4
