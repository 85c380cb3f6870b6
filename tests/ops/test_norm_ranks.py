"""Norms on inputs of three, four and five dimensions: right, or left dense where they mean something else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm.layers as T
import torch
from timm.layers.norm_act import RmsNormAct2d
from torch import Tensor, nn

from octify.passes.reference import reference
from tests.between import converted
from tests.oracle import EXACT, assert_same, noise, randomised

C = 8
NORMS: dict[str, Callable[[], nn.Module]] = {
    "RmsNorm2d": lambda: T.RmsNorm2d(C),
    "RmsNormAct2d": lambda: RmsNormAct2d(C),
    "SimpleNorm2d": lambda: T.SimpleNorm2d(C),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(C, affine=True),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(C),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(C),
    "FrozenBatchNormAct2d": lambda: T.FrozenBatchNormAct2d(C),
    "GroupNorm": lambda: nn.GroupNorm(2, C),
    "GroupNormAct": lambda: T.GroupNormAct(C, 2),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
    "RMSNorm": lambda: nn.RMSNorm(C),
    "LayerNorm": lambda: nn.LayerNorm(C),
}
SIZES = {1: (C,), 2: (8, C), 3: (3, 8, C)}  # the last axis is as long as there are channels


class Normed(nn.Module):
    def __init__(self, norm: nn.Module, axes: int, last: bool) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
        self.first, self.norm, self.last = conv(3, C, 3, padding=1), norm, conv(C, 6, 1)
        self.channels_last = last

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.channels_last:
            return self.last(self.norm(y.movedim(1, -1)).movedim(-1, 1))
        return self.last(self.norm(y))


@pytest.mark.parametrize("last", [False, True], ids=["", "channels last"])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.filterwarnings("ignore:input's size at dim")  # an InstanceNorm that takes the batch for channels
def test_right_at_every_rank(name: str, axes: int, last: bool) -> None:
    torch.manual_seed(0)
    model, x = randomised(Normed(NORMS[name](), axes, last)), noise(2, 3, *SIZES[axes])
    with torch.no_grad():
        try:
            model(x)
        except (RuntimeError, ValueError, AssertionError):
            return  # the model does not take such an input
        made = converted(model, x)
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)
        if axes == 2 and not last and name not in ("RMSNorm", "LayerNorm"):
            assert made.low("first")  # such a norm is no obstacle


@pytest.mark.filterwarnings("ignore:input's size at dim")
def test_the_reason_is_the_rank() -> None:
    made = converted(randomised(Normed(nn.InstanceNorm2d(C), 1, False)), noise(2, 3, C))
    (merge,) = [b for b in made.rewritten.boundaries if b.before == "norm"]
    assert merge.reason == "its input has 3 dimensions, not 4"
