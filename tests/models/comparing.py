"""How close two models must be: as close as a model is to itself in float64."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

# Two float32 computations of one function that add in different orders are each one noise away from the
# float64 answer. The factor covers that noise is seen as the maximum over one small output.
NOISE_FACTOR = 8.0
# For outputs that happen to have almost none: rounding of the output itself, in units in the last place.
FLOOR_ULPS = 16.0


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The output of ``model`` in eval mode."""
    with torch.no_grad():
        y = model.eval()(x)
    assert isinstance(y, Tensor)
    assert y.isfinite().all()
    return y


def noise(model: nn.Module, x: Tensor) -> float:
    """max |y32 - y64|: what float32 rounding does to the output of ``model`` (float32) at ``x``."""
    exact = run(copy.deepcopy(model).double(), x.double())
    return float((run(model, x).double() - exact).abs().max())


def tolerance(*noises: float, like: Tensor) -> float:
    """The absolute difference that the given noises explain, for outputs such as ``like``."""
    floor = FLOOR_ULPS * torch.finfo(torch.float32).eps * float(like.abs().max())
    return max(NOISE_FACTOR * max(noises), floor)


def difference(a: Tensor, b: Tensor) -> float:
    """max |a - b|, in float64."""
    assert a.shape == b.shape
    return float((a.double() - b.double()).abs().max())
