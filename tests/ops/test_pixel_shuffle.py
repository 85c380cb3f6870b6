"""Pixel shuffle and its inverse: exact on the branches, by any factor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.nn.pixel_shuffle import low_pixel_shuffle, low_pixel_unshuffle
from octify.passes.reference import reference
from tests.between import assert_exact, converted
from tests.oracle import EXACT, P, U, assert_same, noise, randomised


@given(factor=st.integers(1, 5), height=st.integers(2, 5), width=st.integers(2, 6), high=st.booleans())
def test_shuffle_is_the_definition(factor: int, height: int, width: int, high: bool) -> None:
    """``P shuffle U``, for odd sizes too where the high branch tells them."""
    size = (height, width) if high else (2 * height, 2 * width)
    low = P(noise(2, 3 * factor**2, *size))
    branch = noise(2, factor**2, *size) if high else None
    assert_same(low_pixel_shuffle(low, branch, factor), P(F.pixel_shuffle(U(low, size), factor)), EXACT)


@given(factor=st.integers(1, 5), height=st.integers(1, 3), width=st.integers(2, 3), high=st.booleans())
def test_unshuffle_is_the_definition(factor: int, height: int, width: int, high: bool) -> None:
    size = (factor * height, factor * width) if high else (2 * factor * height, 2 * factor * width)
    low = P(noise(2, 3, *size))
    branch = noise(2, 1, *size) if high else None
    assert_same(low_pixel_unshuffle(low, branch, factor), P(F.pixel_unshuffle(U(low, size), factor)), EXACT)


class Upscale(nn.Module):
    """As networks for super-resolution end: wider, then larger."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(8, 8 * factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.widen(x)).relu()


OPERATIONS: dict[str, nn.Module | Callable[[Tensor], Tensor]] = {
    "by 2": Upscale(2),
    "by 3": Upscale(3),
    "by 4": Upscale(4),
    "there and back": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2).relu(), 2),
    "back and there": lambda x: nn.functional.pixel_unshuffle(torch.pixel_shuffle(x, 2), 2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_merge_and_exact(name: str) -> None:
    assert_exact(OPERATIONS[name], alphas=(0.5, 1.0))


@settings(max_examples=5)
@given(st.sampled_from([2, 3, 4]))
def test_unshuffled_maps_are_convolved(factor: int) -> None:
    """The layout of a network that first takes its map apart."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.PixelUnshuffle(factor),
        nn.Conv2d(4 * factor**2, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
    )
    x = noise(2, 3, 4 * factor, 4 * factor)
    made = converted(randomised(net), x)
    assert made.boundaries == [] and made.low("0") == 2
    with torch.no_grad():
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)
