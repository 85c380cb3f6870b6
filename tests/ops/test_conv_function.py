"""Depthwise convolutions with constant weights: blurs and functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from tests.oracle import assert_same, error, noise

timm_layers = pytest.importorskip("timm.layers")


def convert(net: nn.Module, x: Tensor, alpha: float = 0.5, clean: bool = True) -> Any:
    """The exact conversion: the projected reference, with no inner merge if ``clean``."""
    net = net.double().eval()
    result = octify.convert(net, x, alpha=alpha, kernels="exact", rules="everywhere")
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(net, result.plan, x)(x))
        assert error(result.model(x), net(x)) > 1e-6
        assert torch.equal(octify.convert(net, x, alpha=0).model(x), net(x))
        paper = octify.convert(net, x, alpha=alpha, rules="everywhere")
        assert paper.model(x).shape == net(x).shape
    if clean:
        assert {b.before for b in result.report.boundaries} <= {"output"}
    return result


@pytest.mark.parametrize("channels", [8, None])
@pytest.mark.parametrize("taps", [3, 5, 7])
@pytest.mark.parametrize("mode", ["reflect", "constant", "replicate"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_blurs_are_exact(channels: int | None, taps: int, mode: str, alpha: float) -> None:
    blur = timm_layers.BlurPool2d(channels, taps, 2, mode)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), blur, nn.Conv2d(8, 4, 1))
    result = convert(net, noise(2, 3, 16, 24), alpha)
    assert hasattr(result.model.get_submodule("2"), "low_to_low")
    assert not any(p.requires_grad for p in result.model.get_submodule("2").parameters())


class Function(nn.Module):
    """``F.conv2d`` with what ``weight`` makes of a parameter and of the value."""

    def __init__(self, weight: Any, **settings: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.taps = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.register_buffer("sobel", torch.randn(1, 1, 3, 3))
        self.weight, self.settings = weight, settings

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.b(F.conv2d(x, self.weight(self, x), **self.settings))


@pytest.mark.parametrize(
    "weight",
    [
        lambda net, x: net.taps,
        lambda net, x: net.sobel.repeat(8, 1, 1, 1) * 2,
        lambda net, x: net.sobel.expand(8, -1, -1, -1),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_functions_with_constant_weights_are_exact(weight: Any, stride: int) -> None:
    result = convert(Function(weight, stride=stride, padding=1, groups=8), noise(1, 3, 12, 16))
    targets = {node.target for node in result.model.graph.nodes}
    assert F.conv2d not in targets
    assert not [entry for entry in result.report.to_dict()["left_dense"] if "conv2d" in entry["path"]]


def test_others_are_refused_with_the_reason() -> None:
    net = Function(lambda net, x: net.taps * x.mean(), padding=1, groups=8)
    result = convert(net, noise(1, 3, 12, 16), clean=False)
    left = {entry["path"]: entry["reason"] for entry in result.report.to_dict()["left_dense"]}
    assert "computed from its input" in left["conv2d"]
