"""Which alpha every coupled set gets: the least error for the MACs saved.

With E_s(a) the error that remains after refitting when a share a of set s is low (made convex) and
M(a_1, a_2, ...) the MACs, sets are made lower step by step, always where a step costs least error for each
MAC that it saves as the others are now. Were the MACs a sum over the sets, every stage of this path
had the least error of all choices with as few MACs (the greedy solution of a convex knapsack); but they are
bilinear, as a convolution saves by either side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octify.plan.budget import MacModel, Shares


@dataclass(frozen=True)
class Curve:
    """Error of a coupled set against its share of low channels; both ascending, from 0."""

    shares: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """Set ``number`` goes on to ``level`` of its curve; ``price`` is error per MAC saved."""

    number: int
    level: int
    price: float


def convex(shares: Sequence[float], errors: Sequence[float]) -> tuple[float, ...]:
    """The largest convex, nowhere decreasing function below ``errors`` at ``shares``, at the same shares."""
    hull: list[tuple[float, float]] = []
    lowest = math.inf
    rising = []
    for error in reversed(errors):  # nothing is lost by a smaller share
        lowest = min(lowest, error)
        rising.append(lowest)
    for point in zip(shares, reversed(rising), strict=True):
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    x, y = zip(*hull, strict=True)
    return tuple(float(e) for e in np.interp(shares, x, y))


def _above(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def path(curves: Mapping[int, Curve], model: MacModel, fixed: Shares) -> list[Step]:
    """Steps from dense to the end of every curve, the cheapest next one first."""
    shares = fixed.copy()
    at = dict.fromkeys(curves, 0)
    for s in curves:
        shares[s] = curves[s].shares[0]
    prices = {s: _price(s, 1, curves[s], model, shares) for s in curves if len(curves[s].shares) > 1}
    steps = []
    while prices:
        s = min(prices, key=lambda s: (prices[s], s))
        at[s] += 1
        steps.append(Step(s, at[s], prices.pop(s)))
        shares[s] = curves[s].shares[at[s]]
        for t in {s, *model.neighbours(s)} & curves.keys():
            if at[t] + 1 < len(curves[t].shares):
                prices[t] = _price(t, at[t] + 1, curves[t], model, shares)
    return steps


def _price(s: int, level: int, curve: Curve, model: MacModel, shares: Shares) -> float:
    saved = model.saved(shares, s, curve.shares[level])
    return (curve.errors[level] - curve.errors[level - 1]) / saved if saved > 0 else math.inf


def after(steps: Sequence[Step], curves: Mapping[int, Curve]) -> dict[int, int]:
    """Level of every set when ``steps`` are taken."""
    return dict.fromkeys(curves, 0) | {step.number: step.level for step in steps}
