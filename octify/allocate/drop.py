"""Search for the cheapest conversion whose drop of the user's metric is at most a target.

Candidates are stops on the path of ``allocate.path``, one percent of the MACs apart, unless too few inputs
are kept aside to measure error curves on. The drop is taken to grow along them, and the last one that keeps
the target is searched by bisection. Uniform alphas that cost less follow: at small costs they can be better.
Every trial is calibrated with the effort of the result, and the result is a model that was measured itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from octify.allocate.plans import Plans
from octify.allocate.trials import Trials, path_of, sets_of
from octify.calibrate.inputs.images import Images
from octify.calibrate.options import Calibration, Target
from octify.calibrate.recipe import Calibrated
from octify.errors import CheckFailed
from octify.metric.measure import Baseline
from octify.plan import Plan
from octify.progress import Progress
from octify.report.allocation import AllocationRow, RivalRow, TrialRow
from octify.report.metric import MetricRow, number


@dataclass(frozen=True)
class _Trial:
    """A calibrated candidate and its metric."""

    plan: Plan
    result: Calibrated
    metric: MetricRow
    row: TrialRow

    @property
    def cost(self) -> tuple[float, float]:
        """Order of the models that keep the target: the cheapest first, then the one with the least drop."""
        return self.row.macs_ratio, self.row.drop


def convert_within(
    plans: Plans,
    images: Images,
    options: Calibration,
    baseline: Baseline,
    *,
    progress: Progress = lambda what, done, of: None,
) -> tuple[Calibrated, AllocationRow]:
    """Search for the model that meets the target drop of ``options``, and return it with its metric.

    Raises CheckFailed when no model keeps it, saying how near the mildest one comes.
    """
    assert options.target is not None
    search = _Search(options.target, Trials(plans, images, options, progress), baseline)
    if images.held_out:
        search.bisect(path_of(search.trials).stops())
    search.cheaper_uniform()
    best = search.best
    if best is None:
        raise search.failure()
    result = _with_alpha(plans, best)
    return result, _allocation(search, best, result)


class _Search:
    """Trials of one search. ``best`` is the cheapest that keeps the target."""

    def __init__(self, target: Target, trials: Trials, baseline: Baseline) -> None:
        self.target, self.trials, self.baseline = target, trials, baseline
        self.tried: list[TrialRow] = []
        self.best: _Trial | None = None
        self.mildest: _Trial | None = None
        self.ways: dict[bool, _Trial] = {}  # the latest that keeps the target, by whether it is uniform
        self.answers: dict[tuple[tuple[int, int], ...], bool] = {}  # by numbers of low channels

    def keeps(self, plan: Plan, alpha: float | None = None) -> bool:
        """Calibrate and measure ``plan``; ``alpha`` is that of a uniform one."""
        counts = tuple((len(conv.low_in), len(conv.low_out)) for conv in plan.convs)
        if counts not in self.answers:  # two stops of a path, or a uniform alpha, can round to the same
            self.answers[counts] = self._measured(plan, alpha)
        return self.answers[counts]

    def _measured(self, plan: Plan, alpha: float | None) -> bool:
        ratio = self.trials.plans.ratio(plan)
        name = f"trial {len(self.tried) + 1}, {ratio:.2f} of the MACs"
        result = self.trials.calibrated(plan, self.trials.effort, name)
        self.trials.progress(f"{name}: {self.baseline.metric.name}", 0, 1)
        metric = self.baseline.compare(result.rewritten.module)
        keeps = metric.keeps(self.target.value)
        row = TrialRow(
            self.trials.plans.true_ratio(result.rewritten),
            alpha,
            result.after.relative_error,
            metric.drop,
            keeps,
        )
        trial = _Trial(plan, result, metric, row)
        self.tried.append(row)
        if self.mildest is None or row.macs_ratio > self.mildest.row.macs_ratio:
            self.mildest = trial
        if keeps and (self.best is None or trial.cost < self.best.cost):
            self.best = trial
        if keeps:
            self.ways[alpha is not None] = trial
        return keeps

    def bisect(self, plans: Sequence[Plan], *, uniform: bool = False, low: int = -1) -> None:
        """Search the last of ``plans``, in order of falling cost, that keeps the target.

        ``low``: index of the last one that is known to keep it.
        """
        high = len(plans)
        while high - low > 1:
            middle = (low + high) // 2
            plan = plans[middle]
            if self.keeps(plan, plan.alpha if uniform else None):
                low = middle
            else:
                high = middle

    def cheaper_uniform(self) -> None:
        """Search the uniform alphas that cost no more than the best so far, if the first keeps the target."""
        bound = 1.0 if self.best is None else self.trials.plans.ratio(self.best.plan)
        plans = self.trials.plans.uniform_stops(bound)
        if plans and self.keeps(plans[0], plans[0].alpha):
            self.bisect(plans, uniform=True, low=0)

    def failure(self) -> CheckFailed:
        """Error that names the nearest model."""
        metric, plans = self.baseline.metric, self.trials.plans
        if self.mildest is None:
            return plans.nothing_converted()
        row = self.mildest.row
        return CheckFailed(
            f"the drop of {metric.name} cannot be kept within {self.target.value:g}",
            why=f"of {len(self.tried)} models tried the mildest, with {row.macs_ratio:.3f} of the MACs, "
            f"drops by {number(row.drop)} after calibration",
            hint=f"--target-drop {row.drop:.3g}, more --calib data, or --calib-effort thorough",
        )


def _with_alpha(plans: Plans, best: _Trial) -> Calibrated:
    """Result whose plan notes the uniform alpha of as few MACs, if it has an alpha for every set."""
    result = replace(best.result, metric=best.metric)
    uniform = None if best.row.alpha is not None else plans.uniform_below(plans.ratio(best.plan))
    return result if uniform is None else replace(result, plan=replace(result.plan, alpha=uniform.alpha))


def _allocation(search: _Search, best: _Trial, result: Calibrated) -> AllocationRow:
    target, tried = search.target, search.tried
    uniform = next((row for row in reversed(tried) if row.alpha is not None), None)
    chosen = best.row.alpha is not None
    own = search.ways.get(False)
    rival = best.row if chosen or uniform is None else uniform
    why = (
        f"of {len(tried)} models, each calibrated with effort {search.trials.effort}, this is the cheapest "
        f"that was measured to keep the drop of {search.baseline.metric.name} within {target.value:g}"
    )
    return AllocationRow(
        "drop",
        target.value,
        best.row.macs_ratio,
        "uniform" if chosen else "per set",
        why,
        sets_of(search.trials.plans, result.plan),
        None if own is None else RivalRow(own.row.macs_ratio, own.row.relative_error),
        RivalRow(rival.macs_ratio, rival.relative_error),
        rival.alpha or result.plan.alpha,
        search.trials.effort,
        len(tried),
        tuple(tried),
    )
