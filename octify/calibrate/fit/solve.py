"""Ridge regression toward given weights, and its hinge refits.

    minimise  ||X W - T||^2 + ridge ||W - W0||^2        (bias row, the last of W, unpenalised)

One Cholesky factor serves all outputs and all refits. A refit replaces the target by the present
prediction plus only those errors that matter behind the activation (``hinge``): where the target
lies in the activation's flat part, a prediction in that part is as good (majorise-minimise, with
Nesterov's extrapolation). Groups are a leading batch dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from octify.calibrate.fit.activation import Activation, Slopes
from octify.calibrate.fit.gram import gram as gram_of

RIDGE = 1e-2  # of the mean diagonal; 1e-4 to 1e-1 are alike
REFITS = 4  # more hurt
LEAST = 1e-6
_CENTRINGS = 8  # halve what the mean lacks so often, or better, where half of the positions are active


@dataclass(frozen=True)
class Fit:
    """Weights (groups, D + 1, O), the bias last, and the Gram matrix over the rows' number (groups, D, D).

    ``predicted`` is what the weights give, without the skip (groups, R, O).
    """

    weights: Tensor
    gram: Tensor
    predicted: Tensor | None = field(default=None, repr=False)


def with_bias(x: Tensor) -> Tensor:
    """Rows (groups, R, D) with a constant column appended."""
    return torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)


def solve(
    x: Tensor,
    target: Tensor,
    skip: Tensor | None,
    initial: Tensor,
    activation: Activation | Slopes | None,
    refits: int,
    ridge_share: float = RIDGE,
    gram: Tensor | None = None,
    lacking: Tensor | None = None,
) -> Fit:
    """Fit ``x @ W + skip`` to ``target``.

    Parameters
    ----------
    x:
        (groups, R, D + 1), the last column constant.
    target, skip:
        (groups, R, O); ``skip`` is added behind the convolution and cannot be changed.
    initial:
        (groups, D + 1, O), where the ridge pulls.
    ridge_share:
        The ridge, of the mean diagonal of the Gram matrix.
    gram:
        That matrix, ``x' x`` (groups, D + 1, D + 1), if it is there already.
    lacking:
        ``target - x @ initial - skip``, likewise.
    """
    gram = gram_of(x) if gram is None else gram
    rows, unknowns = x.shape[1], x.shape[2] - 1
    mean = gram.diagonal(dim1=1, dim2=2)[:, :unknowns].mean(1).double()
    ridge = (ridge_share * mean).clamp_min(LEAST * rows)[:, None].expand(-1, unknowns + 1).clone()
    ridge[:, -1] = LEAST * rows
    factor = torch.linalg.cholesky(gram.double() + torch.diag_embed(ridge))

    def step(weights: Tensor, error: Tensor) -> Tensor:
        """The minimiser for the target ``x @ weights + error``."""
        right = (x.transpose(1, 2) @ error).double() + ridge[:, :, None] * (initial - weights).double()
        return weights + torch.cholesky_solve(right, factor).to(weights)

    fixed = 0.0 if skip is None else skip
    weights = step(initial, target - fixed - x @ initial if lacking is None else lacking)
    if activation is not None and activation.flat_somewhere:
        ahead = weights
        for i in range(refits):
            error = hinge(target, x @ ahead + fixed, activation)
            following = step(ahead, error)
            ahead = following + (i + 1) / (i + 4) * (following - weights)
            weights = following
    predicted = x @ weights
    if activation is not None and not activation.identity:
        shift = centring(target, predicted + fixed, activation)
        weights[:, -1:] += shift
        predicted += shift
    return Fit(weights, (gram[:, :unknowns, :unknowns] / rows).to(weights), predicted)


def hinge(target: Tensor, predicted: Tensor, activation: Activation | Slopes) -> Tensor:
    """``target - predicted``, less what the activation's flat parts hide."""
    error = target - predicted
    low, high = activation.floor, activation.ceiling
    if low > -float("inf"):
        error = torch.where(target > low, error, (low - predicted).clamp_max(0.0))
    if high < float("inf"):
        error = torch.where(target < high, error, (high - predicted).clamp_min(0.0))
    return error


def centring(target: Tensor, predicted: Tensor, activation: Activation | Slopes) -> Tensor:
    """Shift of ``predicted`` that makes its mean behind the activation the target's: (groups, 1, O).

    Least squares predicts too little of everything that it cannot predict well, and where the spread is too
    small, a ReLU gives too low a mean (Jensen). Iterates ``shift += what the mean lacks``, which
    converges for slopes between 0 and 2; an output keeps only what brings it nearer.
    """
    groups, _, outputs = target.shape
    target, predicted = (y.movedim(0, 1).flatten(1) for y in (target, predicted))
    target_mean = activation.apply(target).mean(0)
    shift, lacking = torch.zeros_like(target_mean), target_mean - activation.apply(predicted).mean(0)
    for _ in range(_CENTRINGS):
        following = shift + lacking
        left = target_mean - activation.apply(predicted + following).mean(0)
        nearer = left.abs() < lacking.abs()
        shift, lacking = torch.where(nearer, following, shift), torch.where(nearer, left, lacking)
    return shift.reshape(groups, 1, outputs)
