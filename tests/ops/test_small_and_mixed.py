"""Maps too small for the low branch, padded channels, slices of two resolutions, sizes nobody can tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.compare.loss import relative_loss
from octify.errors import PlanError
from tests.oracle import EXACT, assert_same, noise

LAYERS: dict[str, Any] = {
    "LPPool 4": lambda: nn.LPPool2d(2, 4, 4),
    "LPPool 3": lambda: nn.LPPool2d(2, 3, 1),
    "MaxPool 4": lambda: nn.MaxPool2d(4),
    "MaxPool 3, dilated": lambda: nn.MaxPool2d(2, 1, dilation=3),
    "AvgPool 4": lambda: nn.AvgPool2d(4),
    "AvgPool 3, padded": lambda: nn.AvgPool2d(3, 2, 1),
    "AdaptiveAvgPool": lambda: nn.AdaptiveAvgPool2d(3),
    "AdaptiveMaxPool": lambda: nn.AdaptiveMaxPool2d(1),
    "BatchNorm, no statistics": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "InstanceNorm": lambda: nn.InstanceNorm2d(8, affine=True),
    "GroupNorm": lambda: nn.GroupNorm(8, 8),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_small_maps_run_where_the_original_runs(name: str, size: int) -> None:
    layer = LAYERS[name]()
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer).double().eval()
    x = noise(1, 3, size, size)
    try:
        wanted = net(x)
    except (RuntimeError, ValueError):
        pytest.skip("the original does not take this size")
    for kernels in ("paper", "exact"):
        made = octify.convert(net, x, rules="everywhere", kernels=kernels)
        found = made.model(x)
        assert found.shape == wanted.shape and bool(torch.isfinite(found).all())
        if kernels == "exact" and "BatchNorm" not in name:
            assert_same(found, octify.reference(net, made.plan, x)(x), EXACT)


def test_batch_statistics_of_a_single_low_value_train_as_the_original_does() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)).double().train()
    x = noise(1, 4, 4, 4)
    made = octify.convert(net, x, rules="everywhere").model.train()
    made(x).sum().backward()
    assert all(bool(torch.isfinite(t).all()) for t in made.state_dict().values())


class Padded(nn.Module):
    """Channels of zeros in front and behind, as the parameter-free shortcut of CIFAR ResNets has."""

    def __init__(self, front: int, back: int, stride: int) -> None:
        super().__init__()
        self.ends, self.stride = (front, back), stride
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8 + front + back, 3, stride=stride, padding=1)
        self.c = nn.Conv2d(8 + front + back, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        short = F.pad(y[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, *self.ends])
        return self.c(self.b(y) + short) + self.c(short)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("ends", [(0, 4), (4, 0), (2, 2), (3, 1)])
@torch.no_grad()
def test_channels_padded_with_zeros(ends: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    net, x = Padded(*ends, stride).double().eval(), noise(2, 8, 8, 8)
    for rules in ("everywhere", "default"):
        made = octify.convert(net, x, rules=rules, kernels="exact")
        assert_same(made.model(x), octify.reference(net, made.plan, x)(x), EXACT)


class Mixed(nn.Module):
    """A reduction over a stack of an octave value and one that has no octave form."""

    def __init__(self, reduce: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).transpose(2, 3).flip(3).cumsum(2)
        return self.reduce(torch.stack((self.b(y), y), 2))


@pytest.mark.parametrize(
    "reduce",
    [
        lambda s: s.amax(2),
        lambda s: s.amin(2),
        lambda s: s.max(2).values,
        lambda s: s.max(2)[0],
        lambda s: s.std(2),
        lambda s: s.var(2),
        lambda s: s.norm(dim=2),
        lambda s: s.softmax(2).sum(2),
        lambda s: s.mean(2),
        lambda s: s.sum(2),
    ],
)
@torch.no_grad()
def test_reductions_over_a_stack_of_two_resolutions(reduce: Any) -> None:
    torch.manual_seed(0)
    net, x = Mixed(reduce).double().eval(), noise(1, 6, 8, 8)
    made = octify.convert(net, x, rules="everywhere", kernels="exact")
    assert_same(made.model(x), octify.reference(net, made.plan, x)(x), EXACT)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Identity(),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.LPPool2d(2, 2),
        nn.Upsample(scale_factor=1.5, mode="bilinear"),
        nn.ConstantPad2d((2, 2, 2, 2), 0.5),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_all_channels_low_gives_the_originals_shape_or_says_why_not(layer: nn.Module, stride: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride, 1), layer, nn.Conv2d(8, 4, 3, padding=1)).double().eval()
    for kernels in ("paper", "exact"):
        made = octify.convert(net, noise(1, 3, 32, 32), 1.0, rules="everywhere", kernels=kernels).model
        for size in (2, 4, 6, 12, 18, 20, 34, 36):
            x = noise(1, 3, size, size)
            try:
                found = made(x)
            except PlanError as error:
                assert "low channels alone" in str(error)
            else:
                assert found.shape == net(x).shape


def test_the_loss_of_one_number_for_each_input_sees_an_error() -> None:
    a, b = noise(8, 1), noise(8, 1, seed=1)
    assert float(relative_loss([a], [b])) > 0
    assert float(relative_loss([b], [b])) == 0


@torch.no_grad()
def test_losses_and_errors_leave_out_a_class_that_can_never_be_chosen() -> None:
    from octify.compare.loss import output_loss
    from octify.compare.oracles import distance, largest
    from octify.compare.outputs import compare

    def masked(x: Tensor) -> Tensor:
        return F.pad(x, (0, 1), value=float("-inf"))

    a, b = noise(8, 5), noise(8, 5, seed=1)
    for loss in (relative_loss, lambda p, q: output_loss(p, q, lambda t: t)):
        assert_same(loss([masked(a)], [masked(b)]), loss([a], [b]), 1e-12)
    with_class, without = (
        compare([f(b)], [f(a)], held_out=True).relative_error for f in (masked, lambda t: t)
    )
    assert with_class == pytest.approx(without)
    assert distance([masked(a)], [masked(b)]) == distance([a], [b])
    assert largest([masked(a)]) == largest([a])
    assert distance([masked(a)], [F.pad(a, (0, 1))]) == float("inf")
