"""One layer without weights at several places: on the input, on octave maps of two sizes, on dense maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import octify
from tests.oracle import EXACT, assert_same, noise

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "max pooling": lambda: nn.MaxPool2d(2),
    "overlapping max pooling": lambda: nn.MaxPool2d(3, 2, 1),
    "average pooling": lambda: nn.AvgPool2d(2),
    "smoothing": lambda: nn.AvgPool2d(3, 1, 1),
    "power pooling": lambda: nn.LPPool2d(2, 2),
    "adaptive pooling": lambda: nn.AdaptiveAvgPool2d(4),
    "adaptive max pooling": lambda: nn.AdaptiveMaxPool2d(4),
    "upsampling": lambda: nn.Upsample(scale_factor=2),
    "zero padding": lambda: nn.ZeroPad2d(2),
    "reflection": lambda: nn.ReflectionPad2d(2),
    "response norm": lambda: nn.LocalResponseNorm(3),
    "softmax": lambda: nn.Softmax(1),
    "activation": nn.GELU,
    "norm without weights": lambda: nn.GroupNorm(1, 8, affine=False),
}


class Net(nn.Module):
    def __init__(self, layer: nn.Module, first: str) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.layer, self.layer_1 = layer, nn.Conv2d(8, 8, 1)  # the name beside it is taken
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        dense = self.layer(x).mean((2, 3)) if self.first == "dense" else 0
        y = self.layer(self.b(self.layer(self.a(x)).relu()))
        if self.first == "octave":
            dense = self.layer(x).mean((2, 3))
        return self.c(self.layer_1(y)).mean((2, 3)) + dense


@pytest.mark.parametrize("first", ["dense", "octave"])
@pytest.mark.parametrize("kind", LAYERS)
def test_exact(kind: str, first: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Net(LAYERS[kind](), first).double().eval(), noise(2, 8, 16, 16)
    result = octify.convert(model, x, rules="everywhere", kernels="exact")
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(model, result.plan, x)(x), EXACT)
        assert_same(octify.convert(model, x, alpha=0).model(x), model(x), EXACT)
        result.save(tmp_path / "octave")
        assert_same(octify.load(tmp_path / "octave", model)(x), result.model(x), 0)
