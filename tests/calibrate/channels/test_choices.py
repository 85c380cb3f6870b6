"""What calibration aims at: which channels can be made at half resolution, targets before a max pool, more images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.calibrate.channels import noise as production
from octify.calibrate.channels.greedy import by_greedy
from octify.calibrate.channels.noise import noise
from octify.calibrate.fit.system import max_pool_gap
from octify.calibrate.inputs.augment import COPIES, ROWS, enlarged
from octify.calibrate.inputs.images import Images
from octify.calibrate.streams.observe import observe
from octify.nn.functional import pool
from octify.nn.pool import OctaveMaxPool
from octify.passes.resolve import resolve
from octify.planning.planner import make_plan, planned
from octify.planning.ruleset import load_rules
from octify.trace import trace


class Rectifier(nn.Module):
    """Channels 0-3 are a linear map of smooth input channels, 4-7 rectify white noise: no mean of blocks tells."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1, bias=False)
        self.act = act
        self.read = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:4, :4, 0, 0] = torch.randn(4, 4)
            self.conv.weight[4:, 4:, 0, 0] = torch.randn(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.act(self.conv(x)))


def _inputs(n: int) -> Tensor:
    smooth = torch.randn(n, 4, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    white = torch.randn(n, 4, 16, 16)
    return torch.cat([smooth, white - F.interpolate(pool(white), scale_factor=2.0)], 1)


def _noise(model: nn.Module, x: Tensor) -> Tensor:
    traced = trace(model.eval(), x[:1])
    plan = make_plan(traced, load_rules("everywhere"), 0.5)
    layout = resolve(traced, plan).layout
    found = noise(traced, layout, [(x[:20],), (x[20:],)])
    ids = next(conv.ids_out for conv in layout.convs if conv.path == "conv")
    return torch.from_numpy(found)[torch.from_numpy(ids)]


def test_a_linear_map_of_smooth_channels_has_no_noise_and_rectified_noise_is_all_noise() -> None:
    torch.manual_seed(0)
    x = _inputs(40)
    linear = _noise(Rectifier(nn.Identity()), x)
    assert linear[:4].max() < 2e-2  # the ridge, 1e-2 of a tap's variance, and no more
    rectified = _noise(Rectifier(nn.ReLU()), x)
    # Block means of the inputs are zero in 4-7: they explain nothing of the mean of what is rectified.
    assert rectified[4:].min() > 0.95
    assert rectified[:4].max() < 2e-2  # act(P z) is P act(z) there


def test_noise_is_the_same_however_many_convolutions_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    x = torch.randn(12, 3, 16, 16)
    traced = trace(model.eval(), x[:1])
    layout = resolve(traced, make_plan(traced, load_rules("everywhere"), 0.5)).layout
    together = noise(traced, layout, [(x,)])
    runs = []
    monkeypatch.setattr(production, "_MOST_BYTES", 1)
    monkeypatch.setattr(production, "observe", lambda *given: (runs.append(1), observe(*given)))
    assert np.array_equal(noise(traced, layout, [(x,)]), together)
    assert len(runs) == len(layout.convs)


def test_greedy_spares_the_channels_that_cannot_be_made_at_half_resolution() -> None:
    torch.manual_seed(0)
    model, x = Rectifier(nn.ReLU()).eval(), _inputs(40)
    traced = trace(model, x[:1])
    plan = by_greedy(traced, planned(traced, load_rules("everywhere"), 0.5), [(x,)], rows=4000).plan
    assert plan.conv("conv").low_out == (0, 1, 2, 3)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    windows=st.integers(2, 4),
    ceil=st.booleans(),
    size=st.tuples(st.integers(8, 24), st.integers(8, 24)),
)
def test_the_raised_target_pools_to_the_mean_of_maxima(
    seed: int, windows: int, ceil: bool, size: tuple[int, int]
) -> None:
    """Windows of the low branch that do not overlap: raising each by its gap raises its maximum by as much.

    A low sample that no window has (a last column that pooling leaves out) is not raised.
    """
    made = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()
    layer = nn.MaxPool2d(windows, ceil_mode=ceil)
    wanted = pool(layer(made))
    covered = all(-(-n // 2) <= windows * m for n, m in zip(size, wanted.shape[2:], strict=True))
    gap = max_pool_gap(layer, made)
    assert covered == isinstance(gap, torch.Tensor)
    if covered:
        _, found = OctaveMaxPool(2, windows, ceil_mode=ceil)(made, pool(made) + gap)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_overlapping_windows_at_an_odd_end_leave_the_target_alone() -> None:
    made = torch.rand(1, 2, 14, 14)
    assert max_pool_gap(nn.MaxPool2d(3, 2), made) == 0.0  # 7x7 low, 3x3 pooled


@pytest.mark.parametrize(("images", "side"), [(40, 8), (40, 16), (500, 16), (8, 4)])
def test_images_are_copied_until_the_smallest_map_has_enough_positions(images: int, side: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
    x = torch.randn(images, 3, side, side)
    traced = trace(model.eval(), x[:1])
    chunks = tuple((part,) for part in x.split(16))
    found = enlarged(traced, Images(chunks, (), ()), seed=1)
    total = sum(len(chunk[0]) for chunk in found)
    positions = (side // 2) ** 2  # of the strided convolution; the 1x1 map of the last one has nothing to add
    assert total == images * min(COPIES, -(-ROWS // (images * positions)))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(chunks, found, strict=False))
    again = enlarged(traced, Images(chunks, (), ()), seed=1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(found, again, strict=True))


def test_sequences_are_not_altered() -> None:
    x = torch.randn(8, 3, 32)
    traced = trace(nn.Conv1d(3, 4, 3).eval(), x[:1])
    assert len(enlarged(traced, Images(((x,),), (), ()), seed=0)) == 1
