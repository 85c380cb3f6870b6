"""Fits into fewer taps: among grids that fit equally well, the one that needs the least padding."""

from __future__ import annotations

import pytest

from octify.kernels.convolution import pool_conv_up
from octify.kernels.fit import fit_taps, low_dilations
from octify.kernels.taps import Axis


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [2, 4])
def test_one_tap_between_two_equal_samples_is_the_nearer_one(stride: int, dilation: int) -> None:
    """``P C U`` of a strided 1x1 convolution is a mean of samples, each as good as the others alone."""
    axis = Axis(1, stride, 0, 0, dilation)
    target = pool_conv_up(axis)
    assert len(target.table()) > 1, "there is a choice"
    assert fit_taps(target, 1, 1, stride, low_dilations(axis)).start == 0


@pytest.mark.parametrize("pad", [1, 2])
def test_a_shifted_tap_is_read_as_near_as_it_fits(pad: int) -> None:
    """With padding the samples lie before the output's own position: the last one is the nearest."""
    axis = Axis(1, 2, pad, pad, 3)
    target = pool_conv_up(axis)
    nearest = min(target.table(), key=abs)
    assert fit_taps(target, 1, 1, 2, low_dilations(axis)).start == nearest == 0
