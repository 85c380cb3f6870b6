"""The ratio of two medians, and how sure it is: a bootstrap over interleaved rounds.

A round times every contestant once, so that rounds are drawn whole: what disturbs a round disturbs both of
its times. The interval is that of percentiles (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DRAWS = 4000
_TAIL = 2.5  # percent on each side


@dataclass(frozen=True)
class Ratio:
    """The median time of the first contestant over that of another, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Return whether 1, no difference, lies outside the interval."""
        return not self.low <= 1 <= self.high

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, or ``no clear difference``."""
        if not self.significant:
            return "no clear difference"
        return "faster" if self.value > 1 else "slower"


def ratio_of_medians(first: Sequence[float], own: Sequence[float], draws: int = DRAWS) -> Ratio:
    """The ratio of ``first``'s median to ``own``'s; both have one time for each round, in order.

    Of a single round nothing can be said: its interval is (0, infinity).
    """
    import numpy as np  # not at the top: reports hold ratios, and are read without it

    both = np.array([first, own], dtype=np.float64)
    value = float(np.median(both[0]) / np.median(both[1]))
    rounds = both.shape[1]
    if rounds < 2:
        return Ratio(value, 0.0, float("inf"))
    chosen = np.random.default_rng(0).integers(0, rounds, (draws, rounds))
    medians = np.median(both[:, chosen], axis=-1)
    low, high = np.percentile(medians[0] / medians[1], [_TAIL, 100 - _TAIL])
    return Ratio(value, float(low), float(high))
