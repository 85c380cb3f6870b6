"""Sums, means, extremes and spreads of octave values, over positions or over channels.

Over positions an octave value needs no upsampling: the map ``U u`` holds every sample of ``u``
equally often, so means and extremes are those of ``u`` and sums count each sample ``r`` times
(4 for an image). Only where an odd end is cut off does a sample count less; there ``U u`` is
written out along the reduced axes.

Over channels the high and the low channels are reduced apart, and the low result, one channel,
is upsampled: ``sum = sum xh + U sum xl``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from octify.nn.functional import dense_size, upsample

Reduction = Literal["sum", "mean", "amax", "amin", "var", "std", "norm"]


class Extreme(NamedTuple):
    """Values of ``torch.max`` along a dimension, without the indices."""

    values: Tensor


def low_reduced(
    low: Tensor, high: Tensor | None, kind: Reduction, dims: Sequence[int], correction: float = 1.0
) -> Tensor:
    """The reduction over ``dims`` (spatial, 2 and up) of the map that a low branch stands for.

    (N, L, *low_size) -> the same with one sample along ``dims``. ``correction`` is that of
    ``torch.var``; ``norm`` is Euclidean.
    """
    dims = list(dims)
    if kind == "amax" or kind == "amin":
        return torch.amax(low, dims, True) if kind == "amax" else torch.amin(low, dims, True)
    size = dense_size(high, low)
    stretched = [size[i] if i + 2 in dims else n for i, n in enumerate(low.shape[2:])]
    if any(target not in (n, 2 * n) for n, target in zip(low.shape[2:], stretched, strict=True)):
        low = upsample(low, stretched)
    samples = math.prod([size[d - 2] for d in dims])
    repeats = samples // math.prod([low.shape[d] for d in dims])
    if kind == "mean":
        return low.mean(dims, keepdim=True)
    if kind == "sum":
        total = low.sum(dims, keepdim=True)
        return total * repeats if repeats > 1 else total
    if kind == "norm":
        length: Tensor = torch.linalg.vector_norm(low, dim=dims, keepdim=True)
        return length * math.sqrt(repeats)
    variance = low.var(dims, correction=0, keepdim=True) * (samples / max(0.0, samples - correction))
    return variance if kind == "var" else variance.sqrt()


def channel_reduced(
    high: Tensor | None, low: Tensor | None, kind: Reduction, correction: float = 1.0
) -> Tensor:
    """The reduction over all channels of an octave value: (N, 1, *size), dense."""
    if low is None:
        assert high is not None, "an octave value has at least one branch"
        return over_channels(high, kind, correction)
    size = dense_size(high, low)
    if high is None:
        return upsample(over_channels(low, kind, correction), size)
    if kind in ("var", "std"):
        variance = _joint_variance(high, low, correction)
        return variance if kind == "var" else variance.sqrt()
    if kind == "mean":
        count = high.shape[1] + low.shape[1]
        return (high.sum(1, keepdim=True) + upsample(low.sum(1, keepdim=True), size)) / count
    if kind == "norm":
        squares = [x.square().sum(1, keepdim=True) for x in (high, low)]
        return (squares[0] + upsample(squares[1], size)).sqrt()
    a, b = (over_channels(x, kind, correction) for x in (high, low))
    b = upsample(b, size)
    if kind == "sum":
        return a + b
    return torch.maximum(a, b) if kind == "amax" else torch.minimum(a, b)


def channel_extreme(high: Tensor | None, low: Tensor | None, kind: Reduction, keepdim: bool) -> Extreme:
    """``channel_reduced`` as ``torch.max(x, 1)`` returns it; the indices are left out."""
    values = channel_reduced(high, low, kind)
    return Extreme(values if keepdim else values.squeeze(1))


def over_channels(x: Tensor, kind: Reduction, correction: float) -> Tensor:
    if kind == "sum":
        return x.sum(1, keepdim=True)
    if kind == "mean":
        return x.mean(1, keepdim=True)
    if kind == "norm":
        return x.square().sum(1, keepdim=True).sqrt()
    if kind == "amax" or kind == "amin":
        return torch.amax(x, 1, True) if kind == "amax" else torch.amin(x, 1, True)
    return (
        torch.var(x, 1, correction=correction, keepdim=True)
        if kind == "var"
        else torch.std(x, 1, correction=correction, keepdim=True)
    )


def _joint_variance(high: Tensor, low: Tensor, correction: float) -> Tensor:
    """Variance over the channels of both branches, from those of each (Chan et al. 1979, eq. 2.1)."""
    counts = high.shape[1], low.shape[1]
    total = sum(counts)
    spread = [x.var(1, correction=0, keepdim=True) * n for x, n in zip((high, low), counts, strict=True)]
    size = dense_size(high, low)
    between = high.mean(1, keepdim=True) - upsample(low.mean(1, keepdim=True), size)
    squares = spread[0] + upsample(spread[1], size) + between.square() * (counts[0] * counts[1] / total)
    return squares / max(0.0, total - correction)
