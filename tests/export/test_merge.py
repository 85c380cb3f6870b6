"""Two convolutions into a low branch as one (``octify.export.merge``)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from octify.export.merge import OneLowConv, merge_low_paths
from octify.nn import OctaveConv2d


def _merged(**options: Any) -> tuple[nn.Module, OctaveConv2d]:
    torch.manual_seed(0)
    given: dict[str, Any] = {"kernel_size": 3, "padding": 1, "alpha_in": 0.5, "alpha_out": 0.25} | options
    conv = OctaveConv2d(8, 12, **given).double().eval()
    return merge_low_paths(nn.Sequential(copy.deepcopy(conv)))[0], conv  # type: ignore[index]


@pytest.mark.parametrize("side", [8, 7, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"bias": False},
        {"kernel_size": 1, "padding": 0},
        {"kernel_size": 5, "padding": 4, "dilation": 2},
        {"padding": 0, "kernel_size": 2},
    ],
)
def test_one_convolution_computes_the_sum_of_two(options: dict[str, Any], side: int) -> None:
    merged, conv = _merged(**options)
    assert isinstance(merged, OneLowConv)
    high = torch.randn(2, 4, side, side, dtype=torch.float64)
    low = torch.randn(2, 4, (side + 1) // 2, (side + 1) // 2, dtype=torch.float64)
    with torch.no_grad():
        got, want = merged(high, low), conv(high, low)
        # Both sum the same products, at most 8 channels by 25 taps and a bias, in some order.
        scale = 201 * max(high.abs().max(), 1.0) * max(p.abs().max() for p in conv.parameters())
        for a, b in zip(got, want, strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= 2 * 201 * torch.finfo(torch.float64).eps * scale
    assert sum(p.numel() for p in merged.parameters()) == sum(p.numel() for p in conv.parameters())
    assert sum(isinstance(layer, nn.Conv2d) for layer in merged.modules()) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"kernels": "exact"},  # another kernel on every path
        {"kernel_size": 1, "padding": 0, "stride": 2},  # pools both inputs
        {"kernel_size": 1, "padding": 0, "exchange": "spatial"},
        {"alpha_in": 0.0},
        {"alpha_out": 0.0},
    ],
)
def test_what_is_no_sum_of_two_alike_stays(options: dict[str, Any]) -> None:
    assert isinstance(_merged(**options)[0], OctaveConv2d)


def test_what_somebody_watches_stays() -> None:
    conv = OctaveConv2d(8, 8, 1)
    assert isinstance(conv.low_to_low, nn.Conv2d)
    conv.low_to_low.register_forward_hook(lambda *_: None)
    assert merge_low_paths(nn.Sequential(conv))[0] is conv  # type: ignore[index]


def test_a_layer_at_two_places_is_merged_once() -> None:
    conv = OctaveConv2d(8, 8, 1)
    first, second = merge_low_paths(nn.ModuleList([conv, conv]))  # type: ignore[misc]
    assert isinstance(first, OneLowConv)
    assert first is second
