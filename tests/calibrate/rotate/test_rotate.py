"""Rotated bases keep the function, and lose least; what cannot be rotated is left, with the reason."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import octify
from octify.calibrate.rotate import in_basis, streams, with_rotations
from octify.calibrate.rotate.basis import best_unrotated, lost, low_basis
from octify.calibrate.rotate.moments import ReadMoments
from octify.errors import PlanError
from octify.plan import Plan
from octify.plan.rotation import encoded
from octify.trace import trace
from tests.calibrate.rotate.rotating import Again, Between, Inverted, linear_nets, planned, with_random_bases
from tests.graphs import Sample, nets
from tests.oracle import assert_same, noise, randomised


def same_function(sample: Sample, seed: int = 0) -> int:
    """Rotate all that can be, and compare; how many streams that were."""
    traced = trace(sample.net, sample.x)
    plan = with_random_bases(traced, planned(traced), seed)
    before = {name: tensor.clone() for name, tensor in traced.module.state_dict().items()}
    rotated = in_basis(traced, plan)
    pairs = zip(tree_leaves(rotated.module(sample.x)), tree_leaves(sample.net(sample.x)), strict=True)
    for got, wanted in pairs:
        assert_same(got, wanted)
    for name, tensor in traced.module.state_dict().items():
        assert torch.equal(tensor, before[name])  # the original keeps its weights
    assert [n.name for n in rotated.module.graph.nodes] == [n.name for n in traced.module.graph.nodes]
    return len(plan.rotations)


@given(linear_nets(), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_any_basis_of_every_stream_keeps_the_function(sample: Sample, seed: int) -> None:
    same_function(sample, seed)


@given(nets())
@settings(deadline=None, max_examples=40)
def test_what_is_taken_for_a_stream_in_other_networks_is_one(sample: Sample) -> None:
    same_function(sample)


def stack(*blocks: nn.Module, channels: int = 8) -> Sample:
    torch.manual_seed(0)
    ends = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU())
    return Sample(randomised(nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), *blocks, *ends)), (8, 8))


PASSING = (
    "average pool",
    "zeros",
    "enlarged",
    "halved",
    "moved",
    "turned",
    "negative",
    "twice",
    "mean of positions",
)


@pytest.mark.parametrize("name", sorted(Between.TABLE))
def test_which_operations_pass(name: str) -> None:
    """A table by hand: were everything refused, nothing else here would fail."""
    sample = stack(Between(name))
    assert same_function(sample) == (name in PASSING)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("style", "count"),
    [("skip", 1), ("in place", 1), ("weighed", 1), ("gated", 0), ("scaled", 0), ("plain", 2)],
)
def test_inverted_residuals(style: str, count: int, norm: bool) -> None:
    assert same_function(stack(Inverted(8, 8, style, norm=norm))) == count


@pytest.mark.parametrize(
    ("style", "norm", "count"),
    [
        ("in a row", False, 1),
        ("in a row", True, 1),
        ("both sides", False, 2),
        ("both sides", True, 2),
        ("one norm", False, 1),
        ("one norm", True, 0),
    ],
)
def test_a_layer_at_two_places(style: str, norm: bool, count: int) -> None:
    assert same_function(stack(Again(8, style, norm=norm))) == count


class Reads(nn.Module):
    """A layer that reads one value as channels, and another one otherwise."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.first = nn.Conv2d(3, 4, 1)
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.style == "by width":
            return self.layer(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + self.layer(torch.relu(y))
        if self.style == "weight":
            return self.first(x) * self.first.weight.mean()
        return self.layer(y.mean((2, 3))) + self.layer(y.amax((2, 3)))


@pytest.mark.parametrize("style", ["by width", "weight", "by channels"])
def test_a_layer_that_reads_more_than_channels_is_left(style: str) -> None:
    torch.manual_seed(0)
    sample = Sample(randomised(Reads(style)), (4, 4))
    assert same_function(sample) == 0
    assert all(stream.reason for stream in streams(trace(sample.net, sample.x)))


def tied() -> nn.Module:
    first, second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
    second.weight = first.weight

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.end = first, second, nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.first(x)) + torch.relu(self.second(x)).mean(1, keepdim=True)

    return Net()


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.ReLU())
    net[1].register_forward_hook(lambda module, args, result: 2 * result)
    return net


LEFT: dict[str, tuple[Any, str]] = {
    "shared weights": (tied, "shares its weights"),
    "hooks": (hooked, "has hooks"),
    "weight norm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 2, 1)), nn.ReLU()
        ),
        "computes its weight",
    ),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2)), "is grouped"),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)), "is depthwise"),
    "activation": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)), "by itself"),
    "norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.AvgPool2d(2), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)),
        "by itself",
    ),
    "norm without weights": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 2, 1)),
        "by itself",
    ),
    "norm of the batch": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False), nn.Conv2d(8, 2, 1)
        ),
        "by itself",
    ),
    "output": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1)), "the model returns it"),
    "one channel": (
        lambda: nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 1), nn.ReLU()),
        "single channel",
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 2, 1)),
        "does not treat all channels alike",
    ),
}


@pytest.mark.parametrize("case", sorted(LEFT))
def test_what_is_left_has_a_reason(case: str) -> None:
    build, words = LEFT[case]
    torch.manual_seed(0)
    sample = Sample(randomised(build()), (8, 8))
    found = streams(trace(sample.net, sample.x))
    assert words in (found[0].reason or "")
    assert same_function(sample) == 0


# Which basis. -------------------------------------------------------------------------------------------------


@st.composite
def readers(draw: st.DrawFn) -> list[ReadMoments]:
    """Moments of one value that 1 to 3 layers read, all with the same high frequencies."""
    channels, generator = draw(st.integers(2, 7)), torch.Generator().manual_seed(draw(st.integers(0, 999)))

    def moment(rows: int) -> Tensor:
        sizes = torch.logspace(-1, 1, channels, dtype=torch.float64)
        x = torch.randn(rows, channels, generator=generator, dtype=torch.float64) * sizes
        return x.T @ x / rows

    high = moment(draw(st.sampled_from([1, channels, 50])))
    return [ReadMoments(moment(200), high) for _ in range(draw(st.integers(1, 3)))]


@given(readers(), st.data())
@settings(deadline=None, max_examples=100)
def test_no_choice_of_old_channels_loses_less(read: list[ReadMoments], data: st.DataObject) -> None:
    channels = len(read[0].high)
    low = data.draw(st.integers(1, channels))
    weighing = torch.linalg.eigvalsh(torch.stack([r.weighing for r in read]).sum(0))
    matrix = low_basis(read)
    turned = lost(read, matrix, range(channels - low, channels))
    old = torch.eye(channels, dtype=torch.float64)
    every = [lost(read, old, chosen) for chosen in itertools.combinations(range(channels), low)]
    assert torch.linalg.cond(matrix) < 1e3
    if float(weighing[0] / weighing[-1]) >= 1e-2:  # else directions that hardly matter were given more weight
        assert turned <= min(every) + 1e-9
    assert lost(read, old, best_unrotated(read, low)) >= min(every)
    assert -1e-9 <= turned <= 1 + 1e-9 or low < channels


def images(count: int = 16, size: int = 16) -> Tensor:
    """Smooth images with edges."""
    rough = noise(count, 3, size // 4, size // 4)
    return nn.functional.interpolate(rough, scale_factor=4, mode="bilinear") + 0.1 * noise(
        count, 3, size, size, seed=1
    )


def bottlenecks() -> nn.Module:
    """Trained-like: BatchNorm's statistics are those of ``images``."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1),
        nn.BatchNorm2d(16),
        Inverted(16, 16, "skip", norm=True),
        Inverted(16, 16, "skip", norm=True),
        nn.Conv2d(16, 24, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 2)
            nn.init.normal_(module.bias)
            module.momentum = None
    net.train()
    for _ in range(4):
        net(images())
    return net.eval()


def test_rotation_loses_less_and_its_channels_are_the_last() -> None:
    net, x = bottlenecks(), images()
    traced = trace(net, x[:1])
    plan = with_rotations(traced, planned(traced), [(x,)])
    (rotation,) = plan.rotations
    assert rotation.channels == 16 and rotation.low == 8
    assert 0 <= rotation.lost < rotation.lost_before < 1
    rotated = in_basis(traced, plan)
    assert_same(rotated.module(x), net(x))
    # What is lost, by running the model: the readers' inputs with and without the last channels' detail.
    assert measured(rotated.module, x, low=8) < measured(traced.module, x, low=8)


@torch.no_grad()
def measured(module: nn.Module, x: Tensor, low: int) -> float:
    """Share of a stream's variance, as its readers see it, lost with its ``low`` channels of least cost."""
    taken: list[tuple[nn.Conv2d, Tensor]] = []
    layers = [
        m for m in module.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 16 and m.groups == 1
    ]
    hooks = [m.register_forward_pre_hook(lambda m, args: taken.append((m, args[0]))) for m in layers]
    module(x)
    for hook in hooks:
        hook.remove()
    total = cost = 0.0
    for layer, value in taken:
        detail = value - nn.functional.interpolate(nn.functional.avg_pool2d(value, 2), scale_factor=2)
        spread = layer(value).var((0, 2, 3), keepdim=True)
        each = [
            float(
                (
                    nn.functional.conv2d(detail[:, c : c + 1], layer.weight[:, c : c + 1]).square() / spread
                ).mean()
            )
            for c in range(16)
        ]
        cost += sum(sorted(each)[:low])
        total += float((nn.functional.conv2d(detail, layer.weight).square() / spread).mean().detach())
    return cost / total


def test_training_goes_on_from_the_statistics_that_it_finds() -> None:
    net, x = bottlenecks(), images()
    traced = trace(net, x[:1])
    rotated = in_basis(traced, with_rotations(traced, planned(traced), [(x,)])).module
    before = {n: b.clone() for n, b in rotated.named_buffers()}
    weights = {n: float(p.detach().norm()) for n, p in net.named_parameters()}
    rotated.train()
    loss = (rotated(x) - net(x)).square().mean()
    scale = net(x).var()
    loss.backward()
    assert float((loss / scale).detach()) < 1e-4  # spreads are kept in half precision
    for name, parameter in rotated.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    for name, buffer in rotated.named_buffers():
        if name.endswith("running_var"):
            assert torch.allclose(buffer, before[name], rtol=0.1), name
    for name, parameter in rotated.named_parameters():
        if name.endswith("project.weight"):
            assert abs(float(parameter.detach().norm()) / weights[name] - 1) < 1e-6


# As a part of plans. ------------------------------------------------------------------------------------------


def rotated_plan() -> tuple[nn.Module, Tensor, Plan]:
    net, x = bottlenecks(), images()
    traced = trace(net, x[:1])
    return net, x, with_rotations(traced, planned(traced), [(x,)])


def test_a_plan_and_its_json_are_one() -> None:
    _, _, plan = rotated_plan()
    assert plan.rotations and Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    old = {key: value for key, value in plan.to_dict().items() if key != "rotations"}
    assert Plan.from_dict(old) == replace(plan, rotations=())


def test_a_plan_replayed_without_data_is_the_reference() -> None:
    net, x, plan = rotated_plan()
    exact = replace(plan, kernels="exact", convs=tuple(replace(c, kernels="exact") for c in plan.convs))
    made = octify.convert(net, x[:1], plan=exact)
    assert made.plan.rotations == plan.rotations
    assert_same(made.model(x), octify.reference(net, exact, x[:1])(x))
    plain = octify.reference(net, replace(exact, rotations=()), x[:1])(x)
    wanted = net(x)
    assert (made.model(x) - wanted).norm() < (plain - wanted).norm()


def broken(plan: Plan, **changes: Any) -> dict[str, Any]:
    document = json.loads(json.dumps(plan.to_dict()))
    document["rotations"][0] |= changes
    return document


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matrix": "?"}, "base64"),
        ({"matrix": encoded(np.eye(15))}, "numbers"),
        ({"matrix": encoded(np.zeros((16, 16)))}, "inverted"),
        ({"matrix": encoded(np.full((16, 16), np.nan))}, "finite"),
        ({"channels": 1}, "channels"),
        ({"readers": []}, "readers"),
        ({"more": 1}, "more"),
        ({"writers": [{"path": "0", "norm": "1", "spread": encoded(np.zeros(16))}]}, "positive"),
        ({"writers": [{"path": "0", "norm": "1", "spread": ""}]}, "spread"),
    ],
)
def test_a_broken_rotation_is_refused(changes: dict[str, Any], words: str) -> None:
    _, _, plan = rotated_plan()
    with pytest.raises(PlanError) as caught:
        Plan.from_dict(broken(plan, **changes))
    assert words in str(caught.value)


def test_a_value_is_rotated_once() -> None:
    _, _, plan = rotated_plan()
    document = plan.to_dict()
    document["rotations"] = [*document["rotations"], *document["rotations"]]
    with pytest.raises(PlanError, match="another rotated value"):
        Plan.from_dict(document)


def test_a_plan_for_another_model_is_refused() -> None:
    net, x, plan = rotated_plan()
    net[3] = Inverted(16, 16, "gated", norm=True).double()
    with pytest.raises(PlanError, match="does not allow"):
        octify.convert(net, x[:1], plan=plan)


# As a part of calibration. ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize("effort", ["norm", "fast", "standard"])
def test_calibration_rotates_and_saves(effort: str, tmp_path: Any) -> None:
    net, x = bottlenecks().float(), images(40).float()
    made = octify.convert(net, x[:1], rules="everywhere", calibration=[x], effort=effort)
    assert bool(made.plan.rotations) == (effort != "norm")
    row = made.report.calibration
    assert row is not None and len(row.rotations) == len(made.plan.rotations)
    assert ("of 1 rotated value" in str(made.report)) == (effort != "norm")
    made.save(tmp_path / "out")
    assert_same(octify.load(tmp_path / "out", bottlenecks().float())(x), made.model(x), 1e-6)
    replayed = octify.convert(net, x[:1], plan=tmp_path / "out" / "plan.json")
    assert replayed.plan == made.plan
    again = octify.convert(net, x[:1], plan=made.plan, calibration=[x], effort=effort)
    assert again.plan.rotations == made.plan.rotations
    assert_same(again.model(x), made.model(x), 1e-5)
    exported = octify.export_onnx(made.model, x[:1], tmp_path / "model.onnx")
    assert exported.max_abs_error < 1e-4


def test_the_last_channels_are_the_last_of_the_original() -> None:
    net, x = bottlenecks().float(), images(40).float()
    made = octify.convert(
        net, x[:1], rules="everywhere", calibration=[x], effort="fast", channel_order="last"
    )
    assert not made.plan.rotations


def test_rotation_helps_where_channels_are_alike() -> None:
    net, x = bottlenecks().float(), images(40).float()
    made = octify.convert(net, x[:1], rules="everywhere", calibration=[x], effort="fast")
    fixed = octify.convert(
        net, x[:1], rules="everywhere", calibration=[x], effort="fast", channel_order="last"
    )
    wanted = net(x)
    assert (made.model(x) - wanted).norm() < (fixed.model(x) - wanted).norm()
