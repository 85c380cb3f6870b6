"""Search for a conversion that meets a target: an alpha for each coupled set, or one alpha for all.

MACs: the path of ``allocate.path`` is followed until the graph's own MACs are at most the target; the
smallest uniform alpha that meets it is the rival. Error: stops on the path, one percent of the MACs
apart, are calibrated and measured, first by bisection with fast calibration, then around the resulting stop
with the requested effort; the rival is the uniform alpha of the same MACs. The one with the smaller error on
held-out inputs is kept; for a target on MACs, alpha per set must be better by more than the standard error of
that comparison. Plans are compared with an effort of at most ``standard``; the longer distillation of
``thorough`` follows for the chosen plan alone. Where whole calibrations take minutes, targets on MACs compare
by quick ones (``Trials.judged``), and the chosen plan alone is calibrated whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octify.allocate.plans import Plans, first
from octify.allocate.trials import Trials, path_of, sets_of
from octify.calibrate.inputs.images import Images
from octify.calibrate.options import Calibration, Target
from octify.calibrate.recipe import Calibrated
from octify.compare.outputs import advantage, in_own_units, outputs
from octify.errors import CheckFailed, OctifyError
from octify.plan import Plan
from octify.progress import Progress
from octify.report.allocation import AllocationRow, RivalRow

_SPANS = (8, 4, 2, 1, 1)  # stops between trials with the full effort


def convert_to(
    plans: Plans,
    images: Images,
    options: Calibration,
    *,
    progress: Progress = lambda what, done, of: None,
) -> tuple[Calibrated, AllocationRow]:
    """Search for the model that meets the target of ``options``, and calibrate it.

    Raises CheckFailed when no plan meets it, saying how near one comes; OctifyError when there are too
    few inputs to measure an error on.
    """
    target, trials = options.target, Trials(plans, images, options, progress)
    assert target is not None
    return _to_macs(target, trials) if target.kind == "macs" else _to_error(target, trials)


def _to_macs(target: Target, trials: Trials) -> tuple[Calibrated, AllocationRow]:
    plans = trials.plans
    uniform = plans.uniform_below(target.value)
    if uniform is None:
        least = plans.ratio(plans.uniform(1.0))
        raise CheckFailed(
            f"the MACs cannot be brought down to {target.value:g} of the original's",
            why=f"the smallest ratio reachable under the rules {plans.rules.name} is {least:.3f}",
            hint=f"--target-macs {_rounded_up(least)}, or rules that convert more (--rules everywhere)",
        )
    if not trials.images.held_out:
        few = f"{trials.images.count} inputs are too few to keep some aside to judge an allocation on"
        return uniform_only(target, trials, uniform, few)
    way = path_of(trials)
    per_set = way.below(target.value, uniform.alpha)
    if per_set is None:
        return uniform_only(target, trials, uniform, "only sets that are octave together reach the target")
    ours = trials.judged(per_set, "alpha per set")
    lower = _lower(target, plans, ours)
    again = None if lower is None else way.below(plans.ratio(lower), lower.alpha)
    if lower is not None and again is not None:
        uniform, ours = lower, trials.judged(again, "alpha per set")
    return better(target, trials, uniform, ours)


def _lower(target: Target, plans: Plans, result: Calibrated) -> Plan | None:
    """A smaller uniform plan where ``result`` misses the target; None if it meets it, or nothing is smaller.

    Counts of plans are exact but for convolutions that no plan names (``octify.allocate.macs``).
    """
    if target.kind != "macs":
        return None
    excess = plans.true_ratio(result.rewritten) - target.value
    return plans.uniform_below(target.value - excess) if excess > 0 else None


def _rounded_up(ratio: float) -> str:
    return f"{min(0.99, int(ratio * 100) / 100 + 0.01):.2f}"


def uniform_only(target: Target, trials: Trials, uniform: Plan, why: str) -> tuple[Calibrated, AllocationRow]:
    """Result of the uniform plan, without a rival."""
    result = trials.calibrated(uniform, trials.effort, "uniform alpha")
    lower = _lower(target, trials.plans, result)
    if lower is not None:
        uniform, result = lower, trials.calibrated(lower, trials.effort, "uniform alpha")
    rival = RivalRow(trials.plans.true_ratio(result.rewritten), result.after.relative_error)
    sets = sets_of(trials.plans, result.plan)
    row = AllocationRow(
        target.kind,
        target.value,
        rival.macs_ratio,
        "uniform",
        why,
        sets,
        None,
        rival,
        uniform.alpha,
        trials.effort,
        0,
    )
    return result, row


def better(
    target: Target, trials: Trials, uniform: Plan, ours: Calibrated, tried: int = 0
) -> tuple[Calibrated, AllocationRow]:
    """Result with alpha per set, or with a uniform alpha if its error is smaller.

    ``ours`` is alpha per set, calibrated as plans are compared (``Trials.judged``; whole for a target error).
    """
    quick = trials.few is not None and target.kind != "error"
    theirs = (
        trials.judged(uniform, "uniform alpha")
        if quick
        else trials.calibrated(uniform, trials.comparing, "uniform alpha")
    )
    errors = [each.after.relative_error for each in (ours, theirs)]
    unclear = target.kind == "macs" and not _clear(trials, ours, theirs, quick=quick)
    worse = unclear or not errors[0] <= errors[1]
    why = (
        f"on {ours.after.inputs} inputs kept aside its error is {errors[worse]:.4f}, "
        f"that of {'alpha per set' if worse else 'the uniform alpha'} {errors[not worse]:.4f}"
        + (", which may be chance" if worse and errors[0] < errors[1] else "")
    )
    result = theirs if worse else ours
    ratios = [trials.plans.true_ratio(each.rewritten) for each in (ours, theirs)]
    allocation = AllocationRow(
        target.kind,
        target.value,
        ratios[worse],
        "uniform" if worse else "per set",
        why,
        sets_of(trials.plans, result.plan),
        RivalRow(ratios[0], errors[0]),
        RivalRow(ratios[1], errors[1]),
        uniform.alpha,
        "quick" if quick else trials.comparing,
        tried,
    )
    if quick:
        result = trials.calibrated(result.origin, trials.effort, "the chosen plan")
    elif trials.effort != trials.comparing:
        result = _distilled(target, trials, result)
    return result, allocation


def _clear(trials: Trials, ours: Calibrated, theirs: Calibrated, *, quick: bool) -> bool:
    """Return whether ``ours`` beats ``theirs`` on held-out inputs by more than a standard error."""
    held_out = trials.few.held_out if quick and trials.few is not None else trials.images.held_out
    modules = (trials.plans.traced.module, ours.rewritten.module, theirs.rewritten.module)
    results = [outputs(module, held_out) for module in modules]
    gain, error = advantage(*(in_own_units(each, results[0]) for each in results))
    return gain > error


def _distilled(target: Target, trials: Trials, earlier: Calibrated) -> Calibrated:
    """Calibrate the plan with the full effort; keep the earlier result if that misses the target."""
    result = trials.calibrated(earlier.plan, trials.effort, "the chosen plan")
    error = result.after.relative_error
    if target.kind == "error" and not error <= target.value:
        warning = f"distillation brought the error to {error:.4f}, above the target: it was left out"
        return replace(earlier, warnings=(*earlier.warnings, warning))
    return result


def _to_error(target: Target, trials: Trials) -> tuple[Calibrated, AllocationRow]:
    if not trials.images.held_out:
        raise OctifyError(
            "a target for the error needs more calibration inputs",
            why=f"{trials.images.count} are too few to keep some aside to measure the error on",
            hint="give at least 32, better 256",
        )
    plans = path_of(trials).stops()
    if not plans:
        raise trials.plans.nothing_converted()
    stops = _Stops(target, trials, plans)
    stops.search()
    if stops.best is None:
        raise CheckFailed(
            f"the relative output error cannot be brought down to {target.value:g}",
            why=f"the smallest conversion ({trials.plans.ratio(plans[0]):.3f} of the MACs) has "
            f"{stops.errors[0, trials.comparing]:.4f}, on inputs kept aside, after calibration",
            hint="a larger target, more --calib data, or --calib-effort thorough",
        )
    uniform = trials.plans.uniform_below(trials.plans.ratio(stops.best.plan))
    assert uniform is not None
    nearest = replace(stops.best, plan=replace(stops.best.plan, alpha=uniform.alpha))
    return better(target, trials, uniform, nearest, len(stops.errors))


class _Stops:
    """Search for the cheapest of ``plans`` that meets a target error.

    The error is taken to grow from plan to plan; ``best`` was measured itself.
    """

    def __init__(self, target: Target, trials: Trials, plans: Sequence[Plan]) -> None:
        self.target, self.trials, self.plans = target, trials, plans
        self.errors: dict[tuple[int, str], float] = {}
        self.best: Calibrated | None = None

    def search(self) -> None:
        """Bisection with fast calibration, then shorter and shorter steps with the effort of comparisons."""
        effort, count = self.trials.comparing, len(self.plans)
        quick = "fast" if effort == "standard" else effort
        failing = first(count, lambda n: n == count or not self._meets(n, quick))
        if quick == effort:
            return
        below, above = -1, count  # meets, fails
        at = max(0, (failing or 0) - 1)
        for span in _SPANS:
            if self._meets(at, effort):
                below, at = at, min(at + span, above - 1)
            else:
                above, at = at, max(at - span, below + 1)
            if not below < at < above:
                break
        if below < 0:
            self._meets(0, effort)

    def _meets(self, stop: int, effort: str) -> bool:
        if (stop, effort) not in self.errors:
            ratio = self.trials.plans.ratio(self.plans[stop])
            name = f"trial {len(self.errors) + 1}, {ratio:.2f} of the MACs"
            result = self.trials.calibrated(self.plans[stop], effort, name)
            self.errors[stop, effort] = result.after.relative_error
            if effort == self.trials.comparing and result.after.relative_error <= self.target.value:
                self.best = result  # searches go on only beyond what meets
        return self.errors[stop, effort] <= self.target.value
