"""Reports: the totals are the sum of what is listed, and no convolution is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

import octify
from tests.trace.test_parts import Detector


class Hidden(nn.Module):
    """An opaque block, a shared convolution, one with its own call, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.shared = nn.Conv2d(16, 16, 3, padding=1)
        self.block = Opaque()
        self.alias = self.shared
        self.auxiliary = nn.Sequential(nn.Conv2d(16, 4, 1), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.stem(x).relu()).relu()
        x = self.block(self.alias(x))
        if self.training:
            self.auxiliary(x)
        return self.head(x.mean((2, 3)))


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else x + self.inner(x)


def torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        options = {"init_weights": False} if name == "googlenet" else {}
        return models.get_model(name, weights=None, num_classes=10, **options)

    return build


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "hidden": (Hidden, 16),
    "parts": (Detector, 16),
    "resnet18": (torchvision("resnet18"), 64),
    "mobilenet_v2": (torchvision("mobilenet_v2"), 64),
    "squeezenet1_1": (torchvision("squeezenet1_1"), 64),
    "googlenet": (torchvision("googlenet"), 64),  # its auxiliary heads are for training only
}


@pytest.fixture(
    scope="module",
    params=[
        *((name, "default") for name in MODELS),
        ("hidden", "everywhere"),
        ("squeezenet1_1", "everywhere"),
    ],
)
def case(request: Any) -> tuple[nn.Module, Tensor, octify.Result]:
    name, rules = request.param
    build, side = MODELS[name]
    torch.manual_seed(0)
    model = build().eval()
    x = torch.zeros(1, 3, side, side)
    return model, x, octify.convert(model, x, 0.5, rules=rules)


def test_every_convolution_is_converted_or_left_with_a_reason(case: Any) -> None:
    model, _, result = case
    report = result.report
    converted = {conv.path for conv in result.plan.convs if conv.converted}
    left = {entry.path: entry.reason for entry in report.left_dense}
    every = {path for path, module in model.named_modules() if isinstance(module, _ConvNd)}
    assert converted | left.keys() == every
    assert not converted & left.keys()
    assert all(reason and reason.strip() == reason for reason in left.values())
    assert len(left) == len(report.left_dense)
    assert (report.totals.convolutions, report.totals.converted) == (len(every), len(converted))
    assert {row.path for row in report.layers if row.alpha_in or row.alpha_out} == converted


def test_totals_are_the_sum_of_the_rows(case: Any) -> None:
    """MACs: of the rows alone. Parameters and bytes: of the rows, and of norms and the like."""
    model, _, result = case
    totals, rows = result.report.totals, result.report.layers
    assert totals.macs_before == sum(row.macs_before for row in rows)
    assert totals.macs_after == sum(row.macs_after for row in rows)
    for name in ("parameters", "activation_bytes"):
        for side in ("before", "after"):
            rest = getattr(totals, f"{name}_{side}") - sum(getattr(row, f"{name}_{side}") for row in rows)
            assert rest >= 0
    grown = totals.parameters_after - totals.parameters_before
    norms = sum(p.numel() for p in result.model.parameters()) - sum(
        p.numel() for path, p in model.named_parameters() if not path.startswith(("auxiliary", "aux"))
    )
    assert grown == norms
    # A merge or a split multiplies nothing.
    assert len([b for b in result.report.boundaries if b.kind == "split"]) == totals.splits
    assert len([b for b in result.report.boundaries if b.kind == "merge"]) == totals.merges


def test_macs_are_those_of_a_real_run(case: Any) -> None:
    model, x, result = case
    for module, macs in (
        (model, result.report.totals.macs_before),
        (result.model, result.report.totals.macs_after),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        assert counter.get_total_flops() == 2 * macs


def test_profile_and_alpha_0_agree(case: Any) -> None:
    model, x, result = case
    profile = octify.profile(model, x).totals
    before = result.report.totals
    for name in ("macs", "parameters", "activation_bytes"):
        figures = {getattr(profile, f"{name}_{side}") for side in ("before", "after")}
        assert figures == {getattr(before, f"{name}_before")}
    assert profile.convolutions == before.convolutions


class Mostly(nn.Module):
    """One convolution that can be octave, before a matrix product that costs ``weight`` times as much."""

    def __init__(self, weight: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)  # 16 * 16 * 9 MACs a position
        self.head = nn.Linear(16 * 8 * 8, 16 * 9 * weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x).relu()).relu().flatten(1))


@pytest.mark.parametrize(("weight", "warned"), [(1, False), (9, True)])
def test_a_model_with_little_to_gain_is_told(weight: int, warned: bool) -> None:
    report = octify.inspect(Mostly(weight), torch.zeros(1, 3, 8, 8), 0.5, rules="everywhere")
    told = [warning for warning in report.warnings if warning.startswith("little to gain")]
    saved = 1 - report.totals.macs_after / report.totals.macs_before
    assert bool(told) is warned
    assert all(f"{saved:.1%}" in line and "56%" in line for line in told)


def test_alpha_0_promised_nothing() -> None:
    report = octify.inspect(Mostly(9), torch.zeros(1, 3, 8, 8), 0.0, rules="everywhere")
    assert not any(warning.startswith("little to gain") for warning in report.warnings)
