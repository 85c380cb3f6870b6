"""Heads that flatten maps with channels last, as those of SSD and RetinaNet do, behind converted layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import octify
from tests.oracle import EXACT, assert_same, noise

FLATTENINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "permute, contiguous, view": lambda x: x.permute(0, 2, 3, 1).contiguous().view(x.size(0), -1),
    "permute, reshape": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1),
    "movedim, flatten": lambda x: x.movedim(1, -1).flatten(1),
    "two transposes": lambda x: x.transpose(1, 2).transpose(2, 3).contiguous().view(x.size(0), -1),
    "by classes": lambda x: x.permute(0, 2, 3, 1).contiguous().view(x.shape[0], -1, 4),
    "anchors first": lambda x: (
        x.view(x.shape[0], -1, 4, x.shape[2], x.shape[3]).permute(0, 3, 4, 1, 2).reshape(x.shape[0], -1, 4)
    ),
    "maps last": lambda x: x.flatten(2).transpose(1, 2).contiguous(),
}


class Detector(nn.Module):
    def __init__(self, flattened: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, 16, 3, 2, 1), nn.ReLU()) for before in (3, 16)
        )
        self.boxes = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.classes = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=1) for _ in range(2))
        self.flattened = flattened

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        boxes, classes = [], []
        for stage, box, kind in zip(self.stages, self.boxes, self.classes, strict=True):
            x = stage(x)
            boxes.append(self.flattened(box(x)))
            classes.append(self.flattened(kind(x)))
        return torch.cat(boxes, 1), torch.cat(classes, 1)


@pytest.mark.parametrize("name", FLATTENINGS)
@pytest.mark.parametrize("rules", ["default", "everywhere", "paper"])
@torch.no_grad()
def test_flattened_heads_are_right(name: str, rules: str) -> None:
    model, x = Detector(FLATTENINGS[name]).double().eval(), noise(2, 3, 32, 32)
    made = octify.convert(model, x, rules=rules, kernels="exact")
    expected = octify.reference(model, made.plan, x)
    for inputs in (x, noise(1, 3, 32, 32), noise(2, 3, 64, 32)):
        for one, other in zip(made.model(inputs), expected(inputs), strict=True):
            assert_same(one, other, EXACT)
    if rules == "everywhere":
        assert made.report.to_dict()["totals"]["converted"] > 0
