"""The MACs that Chen et al. 2019 print, or that follow from their section 4, under ``rules="paper"``.

``GMACS`` are convolutions and linear layers at 224x224, stride on the 3x3 (as in torchvision), counted twice
independently of octify.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.report import Report
from octify.report.build import build_report
from octify.trace import Traced, trace
from octify.trace.facts import measure
from tests.models import zoo

IMAGE = (1, 3, 224, 224)
GMACS = {
    "resnet50": {0: 4.089, 0.125: 3.565, 0.25: 3.104, 0.5: 2.367, 0.75: 1.880},
    "resnext50_32x4d": {0: 4.230, 0.125: 3.666, 0.25: 3.171, 0.5: 2.387, 0.75: 1.877},
    "resnet101": {0: 7.801, 0.125: 6.625, 0.25: 5.598, 0.5: 3.991, 0.75: 2.982},
    "resnet152": {0: 11.514, 0.125: 9.685, 0.25: 8.092, 0.5: 5.615, 0.75: 4.084},
}
# Per cent of a layer's MACs and of its output's memory (their table 1).
TABLE_1 = {0.125: (82, 91), 0.25: (67, 81), 0.5: (44, 63), 0.75: (30, 44), 0.875: (26, 35), 1: (25, 25)}


@functools.lru_cache(maxsize=1)  # the tests of a model follow each other
def traced_net(name: str) -> Traced:
    import torchvision

    return trace(torchvision.models.get_model(name, weights=None), torch.empty(IMAGE))


def planned_report(traced: Traced, alpha: float) -> Report:
    """The report of ``octify.convert(..., rules="paper")`` from a trace made once for all alphas."""
    plan = make_plan(traced, load_rules("paper"), alpha)
    rewritten = rewrite(traced, plan)
    return build_report(traced, plan, rewritten, measure(rewritten.module, [torch.empty(IMAGE)]))


def _cases(*names: str) -> list[object]:
    deep = {"resnet101", "resnet152"}
    return [
        pytest.param(
            name,
            alpha,
            marks=[pytest.mark.zoo] if name in deep and alpha != 0.5 else [],
            id=f"{name}-{alpha}",
        )
        for name in names
        for alpha in GMACS[name]
    ]


@pytest.mark.parametrize(("name", "alpha"), _cases(*GMACS))
def test_whole_networks(name: str, alpha: float) -> None:
    totals = planned_report(traced_net(name), alpha).totals
    assert f"{totals.macs_before / 1e9:.3f}" == f"{GMACS[name][0]:.3f}"
    assert f"{totals.macs_after / 1e9:.3f}" == f"{GMACS[name][alpha]:.3f}"
    assert totals.parameters_after == totals.parameters_before


def mobilenet_v1(num_classes: int = 1000) -> nn.Module:
    """MobileNet 1.0 (Howard et al., arXiv 1704.04861, table 1)."""

    def block(c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(c_out), nn.ReLU()]

    layers = block(3, 32, 3, 2)
    c_in = 32
    for c_out, stride in [
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
        *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
    ]:
        layers += [*block(c_in, c_in, 3, stride, groups=c_in), *block(c_in, c_out, 1, 1)]
        c_in = c_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, num_classes))


def test_mobilenet_v1() -> None:
    """568.7 -> 318.2 MMACs at alpha .5: the first depthwise and the last two blocks stay vanilla."""
    result = octify.convert(mobilenet_v1(), torch.empty(IMAGE), 0.5, rules="paper")
    totals = result.report.totals
    assert f"{totals.macs_before / 1e6:.1f}" == "568.7"
    assert f"{totals.macs_after / 1e6:.1f}" == "318.2"
    assert totals.parameters_after == totals.parameters_before
    depthwise = [row for row in result.report.layers if row.kind == "depthwise"]
    # The depthwise of the 12th block works at 7x7, and so does all of the 13th.
    assert [bool(row.alpha_out) for row in depthwise] == [False, *[True] * 10, False, False]


def test_mobilenet_v2() -> None:
    """The paper prints 300 -> 256 MMACs at alpha .375, split only inside the first 13 blocks."""
    model = zoo.build("torchvision:mobilenet_v2", settle_at=0)
    totals = octify.convert(model, torch.empty(IMAGE), 0.375, rules="paper").report.totals
    assert f"{totals.macs_before / 1e6:.0f}" == "301"
    assert totals.macs_after / 1e6 == pytest.approx(256, rel=0.03)
    assert totals.parameters_after == totals.parameters_before


@pytest.mark.parametrize("alpha", TABLE_1)
def test_one_layer(alpha: float) -> None:
    """The middle one of three equal convolutions, octave on both sides."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = (nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.middle(self.first(x)))

    report = octify.inspect(Chain(), torch.empty(1, 64, 32, 32), alpha, rules="everywhere")
    (row,) = (row for row in report.layers if row.path == "middle")
    assert row.alpha_in == row.alpha_out == alpha
    # Section 3.2: 1 - 3/4 alpha (2 - alpha) of the MACs, 1 - 3/4 alpha of the memory ...
    macs, memory = row.macs_after / row.macs_before, row.activation_bytes_after / row.activation_bytes_before
    assert macs == pytest.approx(1 - 0.75 * alpha * (2 - alpha))
    assert memory == pytest.approx(1 - 0.75 * alpha)
    # ... and table 1, which prints 34.4 % as 35.
    assert (100 * macs, 100 * memory) == pytest.approx(TABLE_1[alpha], abs=0.63)
    assert row.parameters_after == row.parameters_before
