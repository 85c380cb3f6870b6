"""Order in which shares of coupled sets grow: the least error for the MACs saved.

With ``E_s(a)`` the error when a share a of set s is low (convex in a) and ``M(a_1, a_2, ...)`` the MACs, sets
are made lower step by step, always where the next step costs least error for each MAC that it saves as
the others are now. Were the MACs a sum over the sets, every stage of this path would have the least total
error of all choices with as few MACs (the greedy solution of a convex knapsack); they are bilinear, as a
convolution saves by either side, and prices are brought up to date after every step.

No set becomes lower than a cap before all others are there: measured alone, a set does not tell what
it costs beside many others (allocation helps up to alpha .5 and hurts at .75, docs/allocation.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octify.allocate.budget import MacModel, Shares

CAPS = (0.75, 0.8125, 0.875, 0.9375, 1.0)


@dataclass(frozen=True)
class ErrorCurve:
    """Error of a coupled set against its share of low channels, which ascends from 0; convex."""

    shares: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """Step of set ``number`` to ``level`` of its curve, which saves ``saved`` MACs."""

    number: int
    level: int
    saved: float


def path(
    curves: Mapping[int, ErrorCurve], model: MacModel, fixed: Shares, caps: Sequence[float] = CAPS
) -> tuple[Step, ...]:
    """Return the steps from all dense to the end of every curve, each time the cheapest one.

    Parameters
    ----------
    fixed:
        Shares of all coupled sets; those of sets with a curve are ignored.
    caps:
        Caps in ascending order: no share exceeds one before all have come as close as their levels allow.
    """
    shares = fixed.copy()
    shares[list(curves)] = 0.0
    at = dict.fromkeys(sorted(curves), 0)
    steps: list[Step] = []
    for cap in caps:
        _climb(curves, model, shares, at, cap, steps)
    return tuple(steps)


def _climb(
    curves: Mapping[int, ErrorCurve],
    model: MacModel,
    shares: Shares,
    at: dict[int, int],
    cap: float,
    steps: list[Step],
) -> None:
    """Append the steps up to ``cap``; ``shares`` and ``at`` (levels) follow them."""

    def offer(s: int) -> tuple[float, int, float] | None:
        curve, level = curves[s], at[s] + 1
        if level == len(curve.shares) or curve.shares[level] > cap + 1e-9:
            return None
        saved = model.saved(shares, s, curve.shares[level])
        cost = curve.errors[level] - curve.errors[level - 1]
        return (cost / saved if saved > 0 else math.inf), s, saved

    offers = {s: best for s in at if (best := offer(s)) is not None}
    while offers:
        _, s, saved = min(offers.values())
        at[s] += 1
        shares[s] = curves[s].shares[at[s]]
        steps.append(Step(s, at[s], saved))
        for t in {s, *model.neighbours(s)} & curves.keys():
            best = offer(t)
            if best is None:
                offers.pop(t, None)
            else:
                offers[t] = best


def levels_after(steps: Sequence[Step], curves: Mapping[int, ErrorCurve]) -> dict[int, int]:
    """Level of every set after ``steps``."""
    return dict.fromkeys(curves, 0) | {step.number: step.level for step in steps}


def last_steps(
    steps: Sequence[Step], curves: Mapping[int, ErrorCurve], model: MacModel, fixed: Shares, missing: float
) -> list[tuple[int, int]]:
    """Candidates that save ``missing`` more MACs after ``steps``: a level for one more set, by rising error.

    The next step of a path may save much more than is needed; another set's smaller step, or several
    of its steps, may cost less.
    """
    at = levels_after(steps, curves)
    shares = fixed.copy()
    for s, level in at.items():
        shares[s] = curves[s].shares[level]
    highest = max((curves[step.number].shares[step.level] for step in steps), default=0.0)
    cap = next(cap for cap in CAPS if highest <= cap + 1e-9)
    candidates = []
    for s, curve in curves.items():
        for level in range(at[s] + 1, len(curve.shares)):
            if curve.shares[level] > cap + 1e-9:
                break
            if model.saved(shares, s, curve.shares[level]) >= missing:
                candidates.append((curve.errors[level] - curve.errors[at[s]], s, level))
                break
    return [(s, level) for _, s, level in sorted(candidates)]


def convex(shares: Sequence[float], errors: Sequence[float]) -> tuple[float, ...]:
    """Largest convex non-decreasing function below ``errors``, at ``shares`` (ascending)."""
    rising = np.minimum.accumulate(np.asarray(errors, dtype=float)[::-1])[::-1]
    hull: list[tuple[float, float]] = []
    for point in zip(shares, rising.tolist(), strict=True):
        while len(hull) > 1 and _is_above(hull[-1], hull[-2], point):
            hull.pop()
        hull.append(point)
    x, y = zip(*hull, strict=True)
    return tuple(np.interp(shares, x, y).tolist())


def _is_above(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Return whether a point lies on or above the line between its neighbours."""
    rise, run = right[1] - left[1], right[0] - left[0]
    return (point[1] - left[1]) * run >= rise * (point[0] - left[0])
