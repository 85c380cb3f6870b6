"""Radial power spectra: what they are of maps whose spectrum is known, and whose channels they are of."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.calibrate.spectrum import BINS, by_frequency, radial_power, spectra
from octify.passes.resolve import Planned, resolve
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace


def wave(rows: int, columns: int, height: int = 32, width: int = 32, phase: float = 0.0) -> Tensor:
    """A cosine with so many periods down and across, (1, 1, height, width)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angle = 2 * math.pi * (rows * y / height + columns * x / width) + phase
    return angle.cos()[None, None]


@given(
    rows=st.integers(0, 15),
    columns=st.integers(0, 15),
    scale=st.floats(0.1, 10),
    offset=st.floats(-3, 3),
    phase=st.floats(0, 1),
)
def test_a_wave_is_in_the_bin_of_its_frequency(
    rows: int, columns: int, scale: float, offset: float, phase: float
) -> None:
    if rows == columns == 0:
        return
    power, share = radial_power(scale * wave(rows, columns, phase=phase) + offset)
    radius = math.hypot(rows, columns) / 32
    (found,) = power[0].nan_to_num().topk(1).indices.unique().tolist()
    assert found == int(radius * 16)
    # All of the power, 32 * 32 - 1 frequencies of mean 1, is in that bin.
    frequency = torch.fft.fftfreq(32, dtype=torch.float64)
    radii = torch.hypot(*torch.meshgrid(frequency, frequency, indexing="ij")).flatten()[1:]
    members = int(((radii * 16).long() == found).sum())
    # float32: the transform's rounding, 32 * 32 * eps of an amplitude's square, on an offset of at most 30 times it.
    assert power[0, 0, found] == pytest.approx(1023 / members, rel=1e-3)
    assert share.item() == pytest.approx(float(radius > 0.25), abs=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (48, 32), (7, 7), (64,), (8, 8, 8)])
def test_white_noise_is_one_everywhere(size: tuple[int, ...]) -> None:
    x = torch.randn(4096 * 16 // math.prod(size), 4, *size, generator=torch.Generator().manual_seed(0))
    power, share = radial_power(x)
    mean = power.mean((0, 1))
    assert mean.shape == (BINS,)
    # Power at a frequency is exponentially distributed, standard deviation 1; conjugates are equal, so at least
    # 4096 * 16 * 4 / prod(size) / 2 of them are independent in a bin. Five standard errors.
    error = 5 / math.sqrt(4096 * 16 * 4 / math.prod(size) / 2)
    assert (mean[~mean.isnan()] - 1).abs().max() < error
    frequency = torch.meshgrid(*(torch.fft.fftfreq(n, dtype=torch.float64) for n in size), indexing="ij")
    radius = torch.stack(frequency).square().sum(0).sqrt().flatten()[1:]
    assert share.mean().item() == pytest.approx(float((radius > 0.25).double().mean()), abs=error)


def test_a_bin_without_frequencies_and_a_constant_map_are_unknown() -> None:
    power, _ = radial_power(torch.randn(1, 1, 4, 4))
    # Radii of a map of 4x4: 1/4 and more; so the bins below 4/16 have none.
    assert power[0, 0, :4].isnan().all() and not power[0, 0, 4].isnan()
    power, share = radial_power(torch.full((1, 1, 8, 8), 3.1))
    assert power.isnan().all() and share.isnan().all()


class Two(nn.Module):
    """Its second convolution reads 8 smooth channels and 8 rough ones, alternating."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 16, 1, bias=False)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        nn.init.dirac_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        out: Tensor = self.third(self.second(y) + y)
        return out


def test_low_and_high_are_the_channels_of_the_plan() -> None:
    smooth, rough = wave(2, 1), wave(9, 7)
    x = torch.cat([rough, smooth] * 8, dim=1)
    model = Two().eval()
    traced = trace(model, x)
    plan = make_plan(traced, load_rules("everywhere"), 0.5)
    measured = spectra(traced, resolve(traced, plan), [(x,), (2 * x,)])
    row = by_frequency(traced, Planned(plan), measured, 2, synthetic=False)
    assert row is not None and row.inputs == 2
    found = {path: each for each in row.maps for path in each.read_by}
    low = plan.conv("second").low_in
    assert low
    rough_share = sum(channel % 2 == 0 for channel in low) / len(low)
    reads = found["second"]
    assert (reads.low.channels, reads.high.channels) == (len(low), 16 - len(low))
    # A rough channel has all its power above 1/4 cycle per pixel, a smooth one none.
    assert reads.low.above_quarter == pytest.approx(rough_share, abs=1e-4)
    rest = (8 - rough_share * len(low)) / (16 - len(low))
    assert reads.high.above_quarter == pytest.approx(rest, abs=1e-4)


def test_nothing_converted_has_no_spectrum() -> None:
    x = torch.randn(1, 16, 8, 8)
    traced = trace(Two().eval(), x)
    plan = make_plan(traced, load_rules("everywhere"), 0.0)
    assert (
        by_frequency(
            traced, Planned(plan), spectra(traced, resolve(traced, plan), [(x,)]), 1, synthetic=False
        )
        is None
    )
