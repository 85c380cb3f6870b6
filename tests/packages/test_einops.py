"""einops' functions and layers become part of the graph.

pip install -c constraints.txt -e '.[test,packages]'
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octify.trace import trace
from tests.oracle import noise

pytestmark = pytest.mark.packages
einops: Any = pytest.importorskip("einops")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: Any = import_module("einops.layers.torch")
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(64, 16, 3, padding=1)
        self.down = layers.Rearrange("b c (h p) (w q) -> b (c p q) h w", p=2, q=2)
        self.mean = layers.Reduce("b c h w -> b c", "mean")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.b(self.down(self.a(x)))
        rows = einops.rearrange(y, "b c h w -> b (h w) c")
        halved = einops.reduce(y, "b c (h p) (w q) -> b c h w", "max", p=2, q=2)
        return self.mean(y), rows, halved


def test_einops() -> None:
    model = Net().double().eval()
    traced = trace(model, noise(2, 3, 16, 16))
    assert (traced.opaque, traced.parts) == ((), None)
    assert not any(each.fixes for each in traced.fixed_sizes)  # einops asks whether sizes can be divided
    for n, h, w in ((2, 16, 16), (1, 24, 8), (3, 16, 16)):
        x = noise(n, 3, h, w, seed=h)
        with torch.no_grad():
            for ours, theirs in zip(traced.module(x), model(x), strict=True):
                assert torch.equal(ours, theirs)
