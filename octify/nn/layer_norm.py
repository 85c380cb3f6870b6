"""Norms over the channels of every position: LayerNorm, RMSNorm and their like.

The statistics are maps of one channel. With ``m`` and ``r`` the mean and the inverse deviation at
full resolution, a low output is ``P((U xl - m) r)``. Writing ``c`` for the mean of the L low
channels at their own resolution,

    yh = (xh - m) r
    yl = (xl - c) P(r) + P((U c - m) r)
    var = (sum (xh - m)^2 + U sum (xl - c)^2 + L (U c - m)^2) / C

so only maps of one channel are pooled and upsampled, and no large numbers are subtracted from each
other where the mean is large against the deviation. (With ``c = 0`` it is ``xl P(r) - P(m r)``.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octify.kernels.taps import Scheme
from octify.nn.affine import Branch, OctaveNorm, shifted, weighted, wide
from octify.nn.functional import Pair, each, pool, upsample

Normalise = Callable[[Tensor | None, Tensor | None, Any], Pair]


def layer_normalise(high: Tensor | None, low: Tensor | None, eps: float) -> Pair:
    """``(x - mean) / sqrt(var + eps)`` over the channels of both branches; the variance is biased."""
    spread = _spread(high, low)
    r = torch.rsqrt(spread.squares / _channels(high, low) + eps)
    y_high, y_low = _times(*spread.centred, r)
    if y_low is not None and spread.between is not None:
        y_low = y_low + pool(spread.between * r)
    return y_high, y_low


def simple_normalise(high: Tensor | None, low: Tensor | None, eps: float) -> Pair:
    """``x / sqrt(var + eps)`` over the channels of both branches; the variance is unbiased."""
    squares = _spread(high, low).squares
    return _times(high, low, torch.rsqrt(squares / (_channels(high, low) - 1) + eps))


def rms_normalise(high: Tensor | None, low: Tensor | None, eps: float | None) -> Pair:
    """``x / sqrt(mean(x^2) + eps)`` over the channels of both branches; ``eps`` None: the precision's."""
    squares = _sum(each((high, low), _square))
    if eps is None:
        eps = torch.finfo(squares.dtype).eps
    return _times(high, low, torch.rsqrt(squares / _channels(high, low) + eps))


def l2_normalise(high: Tensor | None, low: Tensor | None, eps: float) -> Pair:
    """``x / max(eps, ||x||_2)`` over the channels of both branches."""
    squares = _sum(each((high, low), _square))
    # Bounded before the root: its derivative at 0, where a ReLU leaves whole positions, is infinite.
    return _times(high, low, torch.rsqrt(squares.clamp_min(eps * eps)))


def l1_normalise(high: Tensor | None, low: Tensor | None, eps: float) -> Pair:
    """``x / max(eps, ||x||_1)`` over the channels of both branches."""
    return _times(high, low, 1 / _sum(each((high, low), torch.abs)).clamp_min(eps))


@dataclass(frozen=True)
class _Deviations:
    """The branches less their means, and the sum of squared deviations at full resolution.

    ``centred`` is high less the common mean and low less its own; ``between`` the mean of low,
    upsampled, less the common one. With one branch there is but one mean.
    """

    centred: Pair
    squares: Tensor
    between: Tensor | None = None


def _spread(high: Tensor | None, low: Tensor | None) -> _Deviations:
    if high is None or low is None:
        centred = each((high, low), lambda x: x - x.mean(1, keepdim=True))
        return _Deviations(centred, _sum(each(centred, _square)))
    own = low.mean(1, keepdim=True)
    up = upsample(own, high.shape[2:])
    mean = (high.sum(1, keepdim=True) + low.shape[1] * up) / _channels(high, low)
    centred, between = (high - mean, low - own), up - mean
    squares = _sum(each(centred, _square)) + low.shape[1] * _square(between)
    return _Deviations(centred, squares, between)


def _square(x: Tensor) -> Tensor:
    return x * x


def _channels(high: Tensor | None, low: Tensor | None) -> int:
    return sum(x.shape[1] for x in (high, low) if x is not None)


def _sum(branches: Pair) -> Tensor:
    """Sum over the channels of both branches, at the resolution of the high one if there is one."""
    high, low = each(branches, lambda x: x.sum(1, keepdim=True))
    if high is None:
        assert low is not None, "an octave value has at least one branch"
        return low
    return high if low is None else high + upsample(low, high.shape[2:])


def _times(high: Tensor | None, low: Tensor | None, r: Tensor) -> Pair:
    """``x r``; ``P(U xl r) = xl P(r)``. ``r`` has the resolution of the high branch if there is one."""
    if high is None:
        return None, None if low is None else low * r
    return high * r, None if low is None else low * pool(r)


class OctaveLayerNorm(OctaveNorm):
    """A norm over the channels of every position of an octave value.

    High (N, C - L, *size) and low (N, L, *low_size(size)) keep their shapes. Exact at every
    size. An activation inside the layer follows a value that is not constant on blocks: ``exact`` computes it
    at full resolution, ``paper`` on the branches.

    Parameters
    ----------
    module:
        The norm over all C channels: ``eps``, ``weight`` and ``bias``.
    low:
        The L low channels.
    channels:
        C.
    normalise:
        Normalisation before scale and shift.
    scheme:
        Scheme of the activation, where there is one.
    """

    def __init__(
        self,
        module: nn.Module,
        low: Sequence[int],
        channels: int,
        normalise: Normalise = layer_normalise,
        scheme: Scheme = "exact",
    ) -> None:
        super().__init__(module, channels, low)
        self.eps: Any = module.eps
        self.normalise = normalise
        self.scheme = scheme

    def forward(self, high: Tensor | None, low: Tensor | None) -> Pair:
        if high is None or low is None or self.high is None or self.low is None:
            return super().forward(high, low)
        if self.low.act is None or self.scheme == "paper":
            return super().forward(high, low)
        joined = torch.cat([high, upsample(low, high.shape[2:])], 1)
        y, _ = self.normalise(wide(joined), None, self.eps)
        assert y is not None
        y_high, y_low = torch.split(y, [high.shape[1], low.shape[1]], 1)
        y_high, y_low = self._affine(y_high, self.high, high.dtype), self._affine(y_low, self.low, low.dtype)
        return self.high(y_high), pool(self.low(y_low))

    def normalised(self, high: Tensor | None, low: Tensor | None) -> Pair:
        y_high, y_low = self.normalise(*each((high, low), wide), self.eps)
        return (
            None if high is None or y_high is None else self._affine(y_high, self.high, high.dtype),
            None if low is None or y_low is None else self._affine(y_low, self.low, low.dtype),
        )

    def _affine(self, y: Tensor, branch: Branch | None, dtype: torch.dtype) -> Tensor:
        assert branch is not None
        return shifted(weighted(y, branch.weight), branch.bias).to(dtype)

    def extra_repr(self) -> str:
        return f"{self.normalise.__name__}, eps={self.eps}, scheme={self.scheme!r}"
