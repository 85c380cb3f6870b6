"""Error of each coupled set as a function of its share of low channels.

The error is measured on a model in which this set alone is octave, at a quarter, a half and three quarters,
after a fast calibration, on images that this calibration did not use. Between two measured shares it is
interpolated by a power of the share.

The errors after refitting that the greedy channel choice adds up are no substitute: they know neither
what it costs to make the low channels nor pools behind them, count in units of the likelihood, and were off
by factors up to 100 between the layers of one network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from octify.allocate.budget import FreeSet, Level
from octify.allocate.path import ErrorCurve, convex
from octify.allocate.plans import Plans
from octify.allocate.quick import affordable, quick_trials, trial_images
from octify.calibrate.inputs.images import Images
from octify.plan import Plan
from octify.progress import Progress
from octify.trace import Traced

_SHARES = ((0.5,), (0.25, 0.5), (0.25, 0.5, 0.75))  # as many as there is time for
_IMAGES = 32  # of each trial, that there should be time for
_WORST = 1e6  # stands for errors that are not finite
_POWER = 2.0  # power of the share, where only one error is known
_POWERS = (1.0, 8.0)  # the smallest is a straight line
_LAST_POWER = 3.0  # at least, beyond the last share: the last channels cost most


def error_curves(
    plans: Plans,
    images: Images,
    *,
    seed: int,
    progress: Progress = lambda what, done, of: None,
) -> dict[int, ErrorCurve]:
    """Measure the curve of every free set that can be octave by itself; return them by its number.

    Errors are squared relative output errors. Deterministic for a seed.
    """
    traced, choices = plans.traced, plans.choices
    trial, shares = _trials(traced, len(choices.free), images)
    alone = plans.without_boundary_costs()  # alone, a set may need more of them than in company
    candidates = [
        (free, level.share, plan)
        for free in choices.free
        for level in _nearest(free, shares)
        if any(
            (plan := alone.with_alphas(dict.fromkeys(free.paths, level.alpha))).conv(path).low_out
            for path in free.paths
        )
    ]
    errors: dict[int, dict[float, float]] = {}
    with quick_trials(traced, trial, seed, own_units=True) as trials:

        def error(plan: Plan) -> float:
            relative = trials.calibrated(plan).after.relative_error
            return min(relative**2, _WORST) if math.isfinite(relative) else _WORST

        fixed = error(alone.with_alphas({})) if choices.fixed.any() else 0.0
        ordered = sorted(candidates, key=lambda candidate: trials.place_of(candidate[2]))
        for done, (free, share, plan) in enumerate(ordered):
            progress("measuring error curves", done, len(ordered))
            errors.setdefault(free.number, {})[share] = max(0.0, error(plan) - fixed)
    return {
        free.number: curve_through(errors[free.number], [level.share for level in free.levels])
        for free in choices.free
        if free.number in errors
    }


def curve_through(samples: Mapping[float, float], shares: Sequence[float]) -> ErrorCurve:
    """A convex curve from 0, at ``shares``, that follows errors ``samples`` at some of them by powers."""
    at = sorted(samples)
    errors = convex([0.0, *at], [0.0, *(samples[share] for share in at)])[1:]
    powers = [
        min(max(math.log(high / low) / math.log(b / a), _POWERS[0]), _POWERS[1]) if low > 0 else _POWERS[1]
        for a, b, low, high in zip(at, at[1:], errors, errors[1:], strict=False)
    ]
    first, last = (powers[0], powers[-1]) if powers else (_POWER, _POWER)

    def value(share: float) -> float:
        if share <= at[0]:
            return errors[0] * math.pow(share / at[0], first)
        if share >= at[-1]:
            return errors[-1] * math.pow(share / at[-1], max(last, _LAST_POWER))
        right = next(i for i, a in enumerate(at) if a >= share)
        a, b, low, high = at[right - 1], at[right], errors[right - 1], errors[right]
        return low + (high - low) * _between(a, b, share, powers[right - 1])

    return ErrorCurve(tuple(shares), convex(shares, [value(share) for share in shares]))


def _between(a: float, b: float, share: float, power: float) -> float:
    """Interpolate from 0 at ``a`` to 1 at ``b`` as the power grows."""
    start, end = math.pow(a, power), math.pow(b, power)
    return (math.pow(share, power) - start) / (end - start)


def _nearest(free: FreeSet, shares: Sequence[float]) -> list[Level]:
    """Levels of the set nearest to ``shares``, each once, without the dense one."""
    levels = [min(free.levels[1:], key=lambda level: abs(level.share - share)) for share in shares]
    return list(dict.fromkeys(levels))


def _trials(traced: Traced, sets: int, images: Images) -> tuple[Images, Sequence[float]]:
    """Images to fit on and others to measure on, both from calibration's fitting set; and shares to try."""
    shares = _SHARES[min(len(_SHARES), max(1, affordable(traced, sets) // _IMAGES)) - 1]
    return trial_images(traced, sets * len(shares), images), shares
