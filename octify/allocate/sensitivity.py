"""Measurement of every coupled set by itself: error, MACs, time, and the user's metric.

As for the curves of ``allocate.curves`` a set alone is octave, calibrated fast, and measured on images that
this calibration did not use; where rules fix the alphas of other sets, what those cost alone is subtracted.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from octify.allocate.budget import FreeSet, Level
from octify.allocate.plans import Plans
from octify.allocate.quick import QuickTrials, quick_trials, trial_images
from octify.calibrate.inputs.images import Images
from octify.errors import CheckFailed, OctifyError
from octify.metric.measure import Baseline
from octify.passes.rewrite import Rewritten
from octify.plan import Plan
from octify.planning.costs import Costs
from octify.planning.ruleset import Match, Rule
from octify.planning.written import rules_text
from octify.progress import Progress, Steps
from octify.report.sensitivity import Sensitivity, SensitivityPoint, SetSensitivity

_FEWEST = 8  # inputs, half to calibrate on and half to measure on


@dataclass(frozen=True)
class _Trials:
    """Trials of one measurement. ``base`` has no low channels but those that the rules fix."""

    plans: Plans
    quick: QuickTrials
    costs: Costs | None
    baseline: Baseline | None
    base: Plan

    def milliseconds(self, plan: Plan, rewritten: Rewritten | None) -> float | None:
        """Time of the convolutions under ``plan``, and of the split and merge layers of ``rewritten``."""
        if self.costs is None:
            return None
        convs = self.plans.policies.convs(self.plans.traced, self.plans.policies.dense)
        planned = plan.by_path
        total = sum(
            self.costs.conv(conv, len(planned[conv.path].low_in), len(planned[conv.path].low_out))
            for conv in convs
            if conv.path in planned
        )
        boundaries = [] if rewritten is None else [b for b in rewritten.boundaries if not b.vector]
        return total + self.costs.boundary(float(sum(math.prod(b.shape) for b in boundaries)))


def measure_sensitivity(
    plans: Plans,
    images: Images,
    alphas: Sequence[float],
    *,
    model: str,
    seed: int = 0,
    costs: Costs | None = None,
    threads: int | None = None,
    baseline: Baseline | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Sensitivity:
    """Measure every set that the rules leave open, at the levels nearest to ``alphas``.

    ``costs`` are milliseconds, measured with ``threads``. Deterministic for a seed, but for times. Raises
    OctifyError for too few inputs, CheckFailed where no set can be octave.
    """
    free = plans.choices.free
    if images.count < _FEWEST:
        raise OctifyError(
            f"{images.count} inputs are too few to measure sensitivity",
            why="half of them calibrate each trial, and the other half measure it",
            hint=f"give at least {_FEWEST}, better 64",
        )
    alone = plans.without_boundary_costs()  # alone, a set may need more of them than in company
    trial = trial_images(plans.traced, len(free) * len(alphas), images)
    rows, together = [], []
    steps = Steps(progress, len(free) * len(alphas))
    with quick_trials(plans.traced, trial, seed) as quick:
        trials = _Trials(plans, quick, costs, baseline, alone.with_alphas({}))
        fixed = quick.calibrated(trials.base).after.relative_error if plans.choices.fixed.any() else 0.0
        for each in free:
            points = _points(trials, alone, each, alphas, fixed, steps)
            if points:
                rows.append(SetSensitivity(each.paths, sum(map(len, each.members)), points))
            else:
                together.append(each.paths)
    if not rows:
        raise CheckFailed(
            "no coupled set of this model can be octave by itself under these rules",
            hint="--rules everywhere converts all it can; octify inspect MODEL shows every layer",
        )
    half = sum(len(chunk[0]) for chunk in trial.chunks)
    return Sensitivity(
        model,
        plans.rules.name,
        plans.kernels,
        half,
        sum(len(chunk[0]) for chunk in trial.held_out),
        trials.milliseconds(trials.base, None),
        threads if costs is not None else None,
        None if baseline is None else baseline.metric.name,
        tuple(sorted(rows, key=lambda row: (-row.middle.price, row.written_by))),
        tuple(together),
    )


def _points(
    trials: _Trials, alone: Plans, free: FreeSet, alphas: Sequence[float], fixed: float, steps: Steps
) -> tuple[SensitivityPoint, ...]:
    """Points of one set; none at an alpha where it stays dense."""
    at: dict[Level, SensitivityPoint | None] = {}
    points = []
    for alpha in sorted(alphas):
        steps(f"{free.paths[0]}, alpha {alpha:g}", 1)
        level = min(free.levels[1:], key=lambda each: abs(each.share - alpha))
        if level not in at:
            plan = alone.with_alphas(dict.fromkeys(free.paths, level.alpha))
            octave = any(plan.conv(path).low_out for path in free.paths)
            at[level] = _point(trials, plan, alpha, level.share, fixed) if octave else None
        point = at[level]
        if point is not None:
            points.append(
                SensitivityPoint(
                    alpha,
                    point.share,
                    point.macs_saved,
                    point.error,
                    point.milliseconds_saved,
                    point.drop,
                )
            )
    return tuple(points)


def _point(trials: _Trials, plan: Plan, alpha: float, share: float, fixed: float) -> SensitivityPoint:
    result = trials.quick.calibrated(plan)
    error = result.after.relative_error
    before, after = trials.milliseconds(trials.base, None), trials.milliseconds(plan, result.rewritten)
    return SensitivityPoint(
        alpha,
        share,
        trials.plans.ratio(trials.base) - trials.plans.ratio(plan),
        math.sqrt(max(0.0, error**2 - fixed**2)),
        None if before is None or after is None else before - after,
        None if trials.baseline is None else trials.baseline.compare(result.rewritten.module).drop,
    )


def rules_without(sets: Sequence[SetSensitivity], plans: Plans, measured: Sensitivity) -> str:
    """Rule file that keeps ``sets`` dense, and for the rest says what the rules of ``plans`` say."""
    own = plans.policies.rules
    return rules_text(
        f"{plans.rules.name}-without-worst",
        f"{plans.rules.name}, with the {len(sets)} most sensitive of {len(measured.sets)} coupled sets dense",
        [_dense(path, row, own) for row in sets for path in row.written_by],
        plans.rules,
    )


def _dense(path: str, row: SetSensitivity, own: Mapping[str, Rule]) -> Rule:
    """Rule that keeps the output of ``path`` dense; kernels and exchange are as its own rule has them."""
    point, rule = row.middle, own.get(path)
    return Rule(
        match=Match(path=glob.escape(path)),
        output="dense",
        alpha=None,
        kernels=None if rule is None else rule.kernels,
        exchange=None if rule is None else rule.exchange,
        reason=f"sensitive: at alpha {point.share:.2g} alone an error of {point.error:.3g} for "
        f"{max(point.macs_saved, 0):.1%} of the MACs",
    )
