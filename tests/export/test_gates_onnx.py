"""Gates, reductions and resizing of octave values, exported: onnxruntime's answers are PyTorch's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify


class Gates(nn.Module):
    """One network with a spatial gate, strips, channel attention, resizing and pooling to a map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)
        self.rows, self.columns = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.channels = nn.Conv1d(1, 1, 3, padding=1)
        self.slopes = nn.Parameter(torch.rand(16))
        self.pyramid = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.prelu(self.first(x), self.slopes)
        gate = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        x = x * self.spatial(gate).sigmoid()
        rows, columns = self.rows(x.mean(3, keepdim=True)), self.columns(x.mean(2, keepdim=True))
        x = x * rows.sigmoid() * columns.sigmoid()
        y = self.channels(x.mean((2, 3)).view(x.shape[0], 1, -1)).sigmoid()
        x = x * y.view(x.shape[0], -1, 1, 1).expand_as(x)
        x = x + F.interpolate(self.pyramid(F.adaptive_avg_pool2d(x, 4)), size=x.shape[2:], mode="bilinear")
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(F.normalize(x, dim=1)).amax((2, 3))


class Context(nn.Module):
    """Global context attention, at an odd size."""

    def __init__(self) -> None:
        super().__init__()
        layers = pytest.importorskip("timm.layers.global_context")
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.gate = layers.GlobalContext(16, fuse_add=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gate(self.first(x))).mean((2, 3))


def test_global_context(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 9, 12)
    result = octify.convert(Context().eval(), x, rules="everywhere")
    assert result.report.totals.merges == 0
    exported = octify.export_onnx(result.model, x, tmp_path / "context.onnx")
    assert exported.passed, exported


@pytest.mark.parametrize("kernels", ["exact", "paper"])
def test_onnxruntime_agrees(kernels: Any, tmp_path: Path) -> None:
    net, x = Gates().eval(), torch.randn(2, 3, 16, 16)
    result = octify.convert(net, x, rules="everywhere", kernels=kernels)
    assert result.report.totals.merges == 0
    assert result.plan.conv("first").low_out
    exported = octify.export_onnx(result.model, x, tmp_path / "gates.onnx")
    assert exported.passed, exported


def test_it_trains_and_copies() -> None:
    net, x = Gates(), torch.randn(2, 3, 16, 16)
    model = copy.deepcopy(octify.convert(net, x, rules="everywhere").model).train()
    model(x).square().sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
