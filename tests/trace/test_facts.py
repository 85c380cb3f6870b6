"""What rules can ask of convolutions, and what the default rules make of a ResNet's last stage."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.passes.couple import couple
from octify.planning.convs import collect, facts_for_rules
from octify.planning.planner import make_plan
from octify.planning.ruleset import ConvFacts, load_rules
from octify.trace import trace


class Bottleneck(nn.Module):
    """``relu(x + outer(spatial(inner(x))))`` after a stem, twice, and a classifier."""

    def __init__(self, channels: int, wide: int, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 1)
        self.inner = nn.ModuleList([nn.Conv2d(channels, wide, 1) for _ in range(2)])
        self.spatial = nn.ModuleList([nn.Conv2d(wide, wide, 3, padding=1, groups=groups) for _ in range(2)])
        self.outer = nn.ModuleList([nn.Conv2d(wide, channels, 1) for _ in range(2)])
        self.alone = nn.Conv2d(channels, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, spatial, outer in zip(self.inner, self.spatial, self.outer, strict=True):
            x = F.relu(x + outer(F.relu(spatial(F.relu(inner(x))))))
        return self.alone(x).mean((2, 3))


def facts(model: nn.Module, side: int) -> Mapping[str, ConvFacts]:
    traced = trace(model.eval(), torch.zeros(1, 3, side, side))
    layout = couple(traced)
    return facts_for_rules(collect(traced, layout), layout)


@pytest.mark.parametrize("groups", [1, 16])
def test_readers_and_residuals(groups: int) -> None:
    found = facts(Bottleneck(8, 16, groups), 8)
    assert {path: f.feeds_kernel for path, f in found.items()} == {
        "stem": 1,
        **dict.fromkeys(("inner.0", "inner.1"), 3),
        **dict.fromkeys(("spatial.0", "spatial.1"), 3 if groups == 16 else 1),  # depthwise: its own reader
        **dict.fromkeys(("outer.0", "outer.1"), 1),
        "alone": 0,
    }
    assert [path for path, f in found.items() if f.residual] == ["stem", "outer.0", "outer.1"]
    assert found["inner.0"].feeds_depthwise == (groups == 16)


@pytest.mark.parametrize(
    ("side", "wide", "inside", "stream"),
    [
        (14, 32, True, True),
        (13, 256, True, False),
        (7, 256, True, False),
        (7, 32, False, False),
        (6, 256, False, False),
    ],
)
def test_default_rules_by_size(side: int, wide: int, inside: bool, stream: bool) -> None:
    """Maps of 14 samples and more; of 7 to 13 only around the spatial convolutions of wide blocks."""
    traced = trace(Bottleneck(64, wide).eval(), torch.zeros(1, 3, side, side))
    low = {entry.path: bool(entry.low_out) for entry in make_plan(traced, load_rules("default"), 0.5).convs}
    assert {low[f"{name}.{n}"] for name in ("inner", "spatial") for n in (0, 1)} == {inside}
    assert low["outer.0"] == stream
    assert not low["stem"]
