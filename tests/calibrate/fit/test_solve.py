"""The hinge refits: extrapolation brings them nearer to the minimum than as many plain steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from octify.calibrate.fit import solve as fitting
from octify.calibrate.fit.activation import Activation
from octify.calibrate.fit.solve import LEAST, REFITS, hinge, solve


def _system(seed: int) -> tuple[Tensor, Tensor]:
    """Rows (1, 400, 9), a constant last, and targets (1, 400, 4) of which half is noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 400, 9, generator=generator, dtype=torch.float64)
    x[..., -1] = 1
    weights, noise = (torch.randn(1, n, 4, generator=generator, dtype=torch.float64) for n in (9, 400))
    return x, x @ weights + 2 * noise


def _plain_steps(x: Tensor, target: Tensor, activation: Activation, steps: int) -> Tensor:
    """Majorise-minimise without extrapolation, by least squares as good as without a ridge."""
    inverse = torch.linalg.pinv(x)
    weights = inverse @ target
    for _ in range(steps):
        weights = weights + inverse @ hinge(target, x @ weights, activation)
    return weights


@pytest.mark.parametrize("seed", range(8))
def test_extrapolated_refits_are_nearer_to_the_minimum_than_plain_ones(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "centring", lambda target, predicted, activation: 0.0 * target[:, :1])
    relu = Activation.of(torch.relu)
    assert relu is not None
    x, target = _system(seed)

    def loss(weights: Tensor) -> float:
        return float((hinge(target, x @ weights, relu) ** 2).sum())

    found = solve(x, target, None, torch.zeros(1, 9, 4).double(), relu, REFITS, ridge_share=LEAST).weights
    plain, best = (loss(_plain_steps(x, target, relu, steps)) for steps in (REFITS, 200))
    assert best <= loss(found) < plain
    # More than half of what the plain steps still lack is gone: no rounding decides.
    assert loss(found) - best < 0.7 * (plain - best)
