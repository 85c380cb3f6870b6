"""Facts about an activation function for calibration: its inverse, and where it is flat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_REACH = 12.0
_POINTS = 4801
_FLAT = 1e-6


@dataclass(frozen=True)
class Activation:
    """An elementwise function as a table over [-12, 12].

    ``arguments`` and ``results`` are its increasing part. ``floor`` and ``ceiling``: below and above
    these arguments the function is constant (infinite if nowhere); errors there do not matter to what
    follows. ``unique``: results above this one have one argument only (SiLU's below 0 have two).
    """

    function: Callable[[Tensor], Tensor]
    arguments: Tensor
    results: Tensor
    floor: float
    ceiling: float
    unique: float = -float("inf")
    identity: bool = False

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor]) -> Activation | None:
        """Tabulate ``function``; None for one that is not finite there, such as a logarithm."""
        x = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64)
        with torch.no_grad():
            y = function(x.float()).double()
        if y.shape != x.shape or not bool(torch.isfinite(y).all()):
            return None
        step = (y[1:] - y[:-1]).abs() > _FLAT * (x[1] - x[0])
        moving = step.nonzero().flatten()
        if not len(moving):
            return cls(function, x[:1], y[:1], float("inf"), float("inf"))
        first, last = int(moving[0]), int(moving[-1]) + 1
        floor = float(x[first]) if first > _POINTS // 10 else -float("inf")
        ceiling = float(x[last]) if last < _POINTS - _POINTS // 10 else float("inf")
        # The increasing part: from the last minimum up to where it stops growing.
        lowest = int((y <= y.min() + _FLAT).nonzero().flatten()[-1])
        growing = (y[lowest + 1 :] > y[lowest:-1]).nonzero().flatten()
        stop = lowest + 1 + (int(growing[-1]) + 1 if len(growing) else 0)
        same = torch.equal(y, x.float().double())
        unique = float(y[:lowest].max()) if lowest else -float("inf")
        return cls(function, x[lowest:stop], y[lowest:stop], floor, ceiling, unique, same)

    @property
    def flat_somewhere(self) -> bool:
        """Return whether the activation is constant somewhere, so that some errors do not matter."""
        return self.floor > -float("inf") or self.ceiling < float("inf")

    def channels(self, chosen: Sequence[int]) -> Activation:
        """The activation of these channels: the same of all."""
        return self

    def apply(self, x: Tensor) -> Tensor:
        """The function of ``x``, of any shape; even one that works in place leaves ``x`` as it is."""
        return self.function(x.clone())

    def inverse(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Arguments that give ``p``, and where there is exactly one."""
        if len(self.arguments) < 2:
            return p, torch.zeros_like(p, dtype=torch.bool)
        x, y = self.arguments.to(p), self.results.to(p)
        span = float(y[-1] - y[0])
        valid = (p > max(float(y[0]), self.unique) + 1e-4 * min(1.0, span)) & (p < y[-1])
        right = torch.searchsorted(y, p.contiguous()).clamp(1, len(y) - 1)
        y0, y1 = y[right - 1], y[right]
        share = ((p - y0) / (y1 - y0).clamp_min(1e-30)).clamp(0, 1)
        argument = x[right - 1] + share * (x[right] - x[right - 1])
        # Beyond the table ReLU, SiLU and their kin are the identity.
        beyond = (p >= y[-1]) & bool(abs(float(x[-1] - y[-1])) < 1e-3)
        return torch.where(beyond, p, argument), valid | beyond


@dataclass(frozen=True)
class Slopes:
    """``x`` where it is positive, ``slope * x`` elsewhere, with a slope of its own for every channel (C,)."""

    slopes: Tensor
    floor: float = -float("inf")
    ceiling: float = float("inf")
    identity: bool = False
    flat_somewhere: bool = False

    def channels(self, chosen: Sequence[int]) -> Slopes:
        """The activation of these channels."""
        if len(self.slopes) == 1:
            return self
        return Slopes(self.slopes[torch.tensor(list(chosen), device=self.slopes.device)])

    def apply(self, x: Tensor) -> Tensor:
        """The function of ``x``, (N, C, ...)."""
        slopes = self.slopes.to(x).reshape(-1, *(1,) * (x.ndim - 2))
        return torch.where(x > 0, x, slopes * x)

    def inverse(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Like ``Activation.inverse``, for ``p`` (R, C). A slope of 0 or less has none below 0."""
        slopes = self.slopes.to(p)
        argument = torch.where(p > 0, p, p / torch.where(slopes > 0, slopes, torch.ones_like(slopes)))
        return argument, (p > 0) | (slopes > 0)
