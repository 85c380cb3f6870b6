"""Layers that wrap others, change their weights in forward, or carry hooks where few look for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from tests.oracle import EXACT, assert_same, noise


class Masked(nn.Conv2d):
    """A convolution of PixelCNN: its weight is masked anew in each forward."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.register_buffer("mask", (torch.arange(9).view(3, 3) < 5).double())

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


@torch.compile(backend="eager")
def doubled(x: Tensor) -> Tensor:
    return x * 2


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return doubled(self.conv(x))


def compiled_in_place() -> nn.Module:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    conv.compile(backend="eager")
    return conv


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "weight masked in forward": lambda: Masked(8),
    "DataParallel": lambda: nn.DataParallel(nn.Conv2d(8, 8, 3, padding=1)),
    "compiled": lambda: torch.compile(nn.Conv2d(8, 8, 3, padding=1), backend="eager"),  # type: ignore
    "compiled in place": compiled_in_place,
    "compiled function": Calls,
}


def net(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), layer, nn.Conv2d(8, 4, 1)).double().eval()


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_converted(name: str) -> None:
    model, x = net(LAYERS[name]()), noise(2, 3, 8, 8)
    result = octify.convert(model, x, rules="everywhere", kernels="exact")
    assert result.report.totals.converted == 3
    with torch.no_grad():
        assert_same(octify.convert(model, x, alpha=0.0).model(x), model(x), EXACT)
        assert_same(result.model(x), octify.reference(model, result.plan, x)(x), EXACT)


class Swapped(nn.Module):
    """It convolves with other weights than its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return torch.func.functional_call(self.conv, {"weight": self.conv.weight * 2}, (x,))


def test_weights_that_are_exchanged_for_a_call_are_used_or_refused() -> None:
    model, x = net(Swapped()), noise(2, 3, 8, 8)
    try:
        plain = octify.convert(model, x, alpha=0.0).model
    except OctifyError:
        return
    with torch.no_grad():
        assert_same(plain(x), model(x), EXACT)


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_parameters_are_spoken_of(kind: str) -> None:
    model = net(nn.Identity())
    getattr(model.get_parameter("0.weight"), kind)(lambda gradient: None)
    warnings = octify.convert(model, noise(1, 3, 8, 8)).report.warnings
    assert any("hooks on the gradients of 0.weight" in warning for warning in warnings)
    assert not any(
        "hooks on" in w for w in octify.convert(net(nn.Identity()), noise(1, 3, 8, 8)).report.warnings
    )


class Skips(nn.Module):
    """Another block in a twentieth of the training steps, by Python's own random numbers."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 if self.training and random.random() < self.share else x


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_another_way_by_pythons_random_numbers_is_told(share: float) -> None:
    warnings = octify.convert(net(Skips(share)), noise(1, 3, 8, 8)).report.warnings
    assert any("in training the converted model does otherwise" in warning for warning in warnings)


def test_a_train_of_ones_own_does_not_reach_the_model_from_its_copies() -> None:
    model = net(nn.BatchNorm2d(8))

    def train(mode: bool = True, own: nn.Module = model) -> nn.Module:
        nn.Module.train(own, mode)
        own.get_submodule("2").eval()
        return own

    model.train = train  # type: ignore[method-assign]
    before = {path: module.training for path, module in model.named_modules()}
    octify.convert(model, noise(1, 3, 8, 8))
    assert {path: module.training for path, module in model.named_modules()} == before


def test_statistics_that_a_layer_holds_and_does_not_use_are_loaded(tmp_path: Any) -> None:
    def build() -> nn.Module:
        norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        norm.track_running_stats = False
        return net(norm)

    model, x = build(), noise(2, 3, 8, 8)
    result = octify.convert(model, x, rules="everywhere")
    result.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(octify.load(tmp_path, build())(x), result.model(x))


def test_low_channels_alone_are_spoken_of() -> None:
    model, x = net(nn.Identity()), noise(1, 3, 8, 8)
    for alpha, told in ((1.0, True), (0.5, False)):
        warnings = octify.convert(model, x, alpha, rules="everywhere").report.warnings
        assert any("no high branch tells the size" in warning for warning in warnings) is told
