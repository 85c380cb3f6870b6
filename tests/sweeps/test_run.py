"""``octify.sweep``: every rule set at every alpha, kept in folders and taken from them again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import octify


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
    ).eval()


def test_points_are_those_of_convert() -> None:
    model, x = net(), torch.randn(1, 3, 16, 16)
    result = octify.sweep(model, x, (0.25, 0.5), ("everywhere",))
    assert [point.alpha for point in result.points] == [0.25, 0.5]
    for point, converted in zip(result.points, result.models, strict=True):
        alone = octify.convert(model, x, point.alpha, "everywhere")
        assert point.macs == alone.report.totals.macs_after
        assert torch.equal(converted(x), alone.model(x))


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, x = net(), torch.randn(1, 3, 16, 16)
    phases: list[str] = []
    octify.sweep(model, x, (0.5,), ("everywhere",), directory=tmp_path)
    result = octify.sweep(model, x, (0.25, 0.5), ("everywhere",), directory=tmp_path, progress=phases.append)
    assert "everywhere-0.5 is done already" in phases
    assert {point.name for point in result.points} == {path.name for path in tmp_path.iterdir()}
    with torch.no_grad():
        model[0].weight.mul_(2)
    phases.clear()
    octify.sweep(model, x, (0.5,), ("everywhere",), directory=tmp_path, progress=phases.append)
    assert not any(phase.endswith("done already") for phase in phases), "other weights are another sweep"
