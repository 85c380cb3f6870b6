"""What calibration needs to know of an activation function: its inverse, and where it is flat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_REACH = 12.0
_POINTS = 4801
_FLAT = 1e-6


@dataclass(frozen=True)
class Activation:
    """An elementwise function as a table over [-12, 12].

    ``floor`` and ``ceiling``: below and above these arguments the function is constant (infinite if
    nowhere); errors there do not matter to what follows.
    """

    apply: Callable[[Tensor], Tensor]
    arguments: Tensor
    results: Tensor
    floor: float
    ceiling: float

    @classmethod
    def of(cls, apply: Callable[[Tensor], Tensor]) -> Activation:
        """Tabulate ``apply``."""
        x = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64)
        with torch.no_grad():
            y = apply(x.float()).double()
        step = (y[1:] - y[:-1]).abs() > _FLAT * (x[1] - x[0])
        moving = step.nonzero().flatten()
        if not len(moving):
            return cls(apply, x[:1], y[:1], float("inf"), float("inf"))
        first, last = int(moving[0]), int(moving[-1]) + 1
        floor = float(x[first]) if first > _POINTS // 10 else -float("inf")
        ceiling = float(x[last]) if last < _POINTS - _POINTS // 10 else float("inf")
        # The increasing part: from the last minimum up to where it stops growing.
        lowest = int((y <= y.min() + _FLAT).nonzero().flatten()[-1])
        growing = (y[lowest + 1 :] > y[lowest:-1]).nonzero().flatten()
        stop = lowest + 1 + (int(growing[-1]) + 1 if len(growing) else 0)
        return cls(apply, x[lowest:stop], y[lowest:stop], floor, ceiling)

    @property
    def flat_somewhere(self) -> bool:
        """Whether some errors do not matter."""
        return self.floor > -float("inf") or self.ceiling < float("inf")

    def inverse(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Arguments that give ``p``, and where there is one in the increasing part."""
        if len(self.arguments) < 2:
            return p, torch.zeros_like(p, dtype=torch.bool)
        x, y = self.arguments.to(p), self.results.to(p)
        span = float(y[-1] - y[0])
        valid = (p > y[0] + 1e-4 * min(1.0, span)) & (p < y[-1])
        right = torch.searchsorted(y, p.contiguous()).clamp(1, len(y) - 1)
        y0, y1 = y[right - 1], y[right]
        share = ((p - y0) / (y1 - y0).clamp_min(1e-30)).clamp(0, 1)
        found = x[right - 1] + share * (x[right] - x[right - 1])
        # Beyond the table ReLU, SiLU and their kin are the identity.
        beyond = (p >= y[-1]) & bool(abs(float(x[-1] - y[-1])) < 1e-3)
        return torch.where(beyond, p, found), valid | beyond
