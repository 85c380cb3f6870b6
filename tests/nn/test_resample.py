"""Resizing and adaptive pooling of octave values, against the same on the whole map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.nn.resample import low_adaptive, low_resized
from tests.between import assert_exact, assert_refused
from tests.oracle import EXACT, P, U, assert_same, noise

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
MODES = ["nearest", "nearest-exact", "bilinear", "bicubic", "area"]


def low_and_map(size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """A low branch, the map it stands for, and a high branch."""
    low = P(noise(2, 3, *size))
    return low, U(low, size), noise(2, 1, *size, seed=1)


@given(
    SIZES,
    SIZES,
    st.sampled_from(MODES),
    st.booleans(),
    st.sampled_from([None, 2, 3, 0.5, 1.5, (2, 4), (1, 2.5)]),
)
def test_resized(size: Any, out: Any, mode: str, corners: bool, scale: Any) -> None:
    """Every mode, to any size or by any factor, at odd sizes too."""
    scales = scale if isinstance(scale, tuple) else (scale, scale)
    if scale is not None and any(int(n * s) < 1 for n, s in zip(size, scales, strict=True)):
        scale = 2
    align = corners if mode in ("bilinear", "bicubic") else None
    low, whole, high = low_and_map(size)
    settings = (None if scale else out, scale, mode, align, None, False)
    want = P(F.interpolate(whole, *settings[:5]))
    assert_same(low_resized(low, high, "exact", *settings), want, EXACT)
    assert low_resized(low, high, "paper", *settings).shape == want.shape


@given(SIZES, st.sampled_from(["bilinear", "bicubic"]), st.sampled_from([0.3, 0.5, 0.75]))
def test_antialiased(size: Any, mode: str, scale: float) -> None:
    size = tuple(n + 4 for n in size)
    low, whole, high = low_and_map(size)
    want = P(F.interpolate(whole, scale_factor=scale, mode=mode, antialias=True))
    got = low_resized(low, high, "exact", None, scale, mode, None, None, True)
    assert_same(got, want, EXACT)


@pytest.mark.parametrize(("mode", "size"), [("linear", (6,)), ("trilinear", (3, 4, 6))])
def test_resized_sequences_and_videos(mode: str, size: tuple[int, ...]) -> None:
    low, whole, high = low_and_map(size)
    want = P(F.interpolate(whole, scale_factor=2, mode=mode))
    assert_same(low_resized(low, high, "exact", None, 2, mode, None, None, False), want, EXACT)


def test_twofold_bilinear_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The common case never holds a map larger than its result."""
    largest = 0
    original = F.interpolate

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal largest
        y = original(*args, **kwargs)
        largest = max(largest, y.numel())
        return y

    monkeypatch.setattr(F, "interpolate", watched)
    low, _, high = low_and_map((8, 8))
    y = low_resized(low, high, "exact", None, 2, "bilinear", None, None, False)
    assert largest == y.numel()


@given(SIZES, SIZES, st.sampled_from(["mean", "amax"]), st.booleans(), st.booleans())
def test_adaptive_pooling(size: Any, out: Any, kind: str, keep_rows: bool, keep_columns: bool) -> None:
    given_size = (None if keep_rows else out[0], None if keep_columns else out[1])
    low, whole, high = low_and_map(size)
    function = F.adaptive_avg_pool2d if kind == "mean" else F.adaptive_max_pool2d
    assert_same(low_adaptive(low, high, kind, given_size), P(function(whole, given_size)), EXACT)


@given(SIZES)
def test_without_a_high_branch_sizes_are_even(size: Any) -> None:
    size = tuple(2 * n + 2 for n in size)
    low, whole, _ = low_and_map(size)
    settings = ((7, 5), None, "bilinear", False, None, False)
    assert_same(low_resized(low, None, "exact", *settings), P(F.interpolate(whole, *settings[:5])), EXACT)
    assert_same(low_adaptive(low, None, "amax", 3), P(F.adaptive_max_pool2d(whole, 3)), EXACT)


OPERATIONS: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "corners": lambda x: F.interpolate(x, size=(20, 30), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"),
    "nearest": lambda x: F.interpolate(x, scale_factor=3),
    "uneven nearest": lambda x: F.interpolate(x, size=(10, 14)),
    "computed size": lambda x: F.interpolate(x, (x.shape[2] * 2, x.size(3)), mode="bilinear"),
    "size of another": lambda x: x + F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:], mode="bilinear"),
    "nearest to another": lambda x: x + F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="nearest"),
    "Upsample": nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True),
    "UpsamplingBilinear2d": nn.UpsamplingBilinear2d(scale_factor=2),
    "UpsamplingNearest2d": nn.UpsamplingNearest2d(size=(16, 24)),
    "adaptive": nn.AdaptiveAvgPool2d((4, 6)),
    "adaptive, uneven": nn.AdaptiveAvgPool2d((3, 5)),
    "adaptive, as large": nn.AdaptiveAvgPool2d((8, 12)),
    "adaptive max": nn.AdaptiveMaxPool2d((4, 6)),
    "pyramid": lambda x: x + F.interpolate(F.adaptive_avg_pool2d(x, 2), x.shape[2:], mode="bilinear"),
    "power mean": nn.LPPool2d(2, 2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_between_convolutions(name: str) -> None:
    assert_exact(OPERATIONS[name])


def test_pools_of_timm() -> None:
    pytest.importorskip("timm")
    from timm.layers.median_pool import MedianPool2d
    from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame

    for layer in (MaxPool2dSame(3, 2), AvgPool2dSame(3, 2), MaxPool2dSame(2, 2), MedianPool2d(3, 1, 1)):
        assert_exact(layer, alphas=(0.5,))


def test_indices_are_refused() -> None:
    assert_refused(lambda x: F.adaptive_max_pool2d(x, 4, return_indices=True)[0], "")


def test_a_constant_scale_at_even_sizes() -> None:
    """What exporters and runtimes like best: nearest to twice the size is written with a constant scale."""
    from octify.nn.resample import resized

    graph = torch.export.export(
        _Call(lambda x: resized(x, (8, 8), None, "nearest", None, None, False)), (torch.randn(1, 2, 4, 4),)
    ).graph
    calls = [n for n in graph.nodes if "upsample_nearest2d" in str(n.target)]
    assert len(calls) == 1
    assert calls[0].args[1] is None
    assert calls[0].args[2] == [2.0, 2.0]


class _Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_blurred_pooling_of_timm() -> None:
    pytest.importorskip("timm")
    from timm.layers.blur_pool import BlurPool2d

    for layer in (BlurPool2d(8), BlurPool2d(filt_size=5, stride=2), BlurPool2d(8, 3, 1, "constant")):
        assert_exact(layer)
