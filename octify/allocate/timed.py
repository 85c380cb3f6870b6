"""Search for the conversion of least error that runs within a time.

Candidates are stops on the path of ``allocate.path``, one percent of the MACs apart, and uniform alphas. Of
either kind the first one that is fast enough is searched by bisection: time is taken to fall along them. Both
are calibrated, and the one with the smaller error on held-out inputs is the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from octify.allocate.plans import Plans, first
from octify.allocate.search import better, uniform_only
from octify.allocate.trials import Trials, path_of
from octify.calibrate.inputs.images import Images
from octify.calibrate.options import Calibration
from octify.calibrate.recipe import Calibrated
from octify.errors import CheckFailed, OctifyError
from octify.latency.verdict import TimingSettings
from octify.passes.rewrite import rewrite
from octify.plan import Plan
from octify.progress import Progress, Tell
from octify.report.allocation import AllocationRow

_SLACK = 1.02  # a result that is slower than the target by more is told


class Stopwatch:
    """Median times of whole models, each in rounds interleaved with the original's.

    ``dense`` is the original's latest time in milliseconds; ``count`` the number of models that were timed.
    """

    def __init__(self, plans: Plans, inputs: Sequence[Tensor], timing: TimingSettings, tell: Tell) -> None:
        self.plans, self.inputs, self.timing, self.tell = plans, tuple(inputs), timing, tell
        self.dense, self.count = 0.0, 0
        self._of_plan: dict[object, float] = {}

    def of_plan(self, plan: Plan) -> float:
        """Milliseconds of the conversion by ``plan``, whatever its weights."""
        key = tuple((conv.low_in, conv.low_out, conv.exchange) for conv in plan.convs)
        if key not in self._of_plan:
            self._of_plan[key] = self.of_model(rewrite(self.plans.traced, plan).module)
        return self._of_plan[key]

    def of_model(self, model: nn.Module) -> float:
        """Milliseconds of ``model``."""
        from octify.latency.bench import bench  # with onnxruntime, which takes a while to import

        result = bench(
            {"dense": self.plans.traced.module, "octave": model},
            self.inputs,
            runtimes=[self.timing.runtime],
            threads=self.timing.threads,
            memory=False,
            progress=self.tell,
        )
        dense, octave = result.rows
        self.dense, self.count = dense.timing.median, self.count + 1
        return octave.timing.median

    @property
    def place(self) -> str:
        """The runtime and its threads."""
        return f"{self.timing.runtime}, {self.timing.threads} thread{'s' if self.timing.threads > 1 else ''}"


def convert_in_time(
    plans: Plans,
    images: Images,
    options: Calibration,
    clock: Stopwatch,
    *,
    progress: Progress = lambda what, done, of: None,
) -> tuple[Calibrated, AllocationRow]:
    """Search for the model of least error that takes at most the target of ``options`` in milliseconds.

    Raises CheckFailed when no plan is fast enough, with the time of the fastest; OctifyError when the
    original is fast enough.
    """
    target, trials = options.target, Trials(plans, images, options, progress)
    assert target is not None
    stops = plans.uniform_stops(1.0)
    if not stops:
        raise plans.nothing_converted()
    uniform = _first_within(clock, stops, target.value)
    if uniform is None:
        raise _failure(clock, plans.rules.name, clock.of_plan(stops[-1]), target.value)
    if clock.dense <= target.value:
        raise OctifyError(
            f"the original takes {clock.dense:.3g} ms, which is within {target.value:g} ms",
            why=f"that was measured in {clock.place}: there is nothing to convert for",
            hint=f"--target-latency {0.7 * clock.dense:.3g}, or --target-macs 0.7",
        )
    per_set = _first_within(clock, path_of(trials).stops(), target.value) if images.held_out else None
    if per_set is None:
        few = f"{images.count} inputs are too few to keep some aside to judge an allocation on"
        why = few if not images.held_out else "only sets that are octave together are fast enough"
        result, row = uniform_only(target, trials, uniform, why)
    else:
        ours = trials.judged(per_set, "alpha per set")
        result, row = better(target, trials, uniform, ours)
    took = clock.of_model(result.rewritten.module)
    why = (
        f"{row.why}; timed whole in {clock.place}: {clock.dense:.3g} ms dense, {took:.3g} ms octave, after"
        f" {clock.count - 1} other timings"
    )
    if took > _SLACK * target.value:
        slower = f"the result takes {took:.3g} ms, above the target of {target.value:g}: measured times vary"
        result = replace(result, warnings=(*result.warnings, slower))
    return result, replace(row, why=why)


def _first_within(clock: Stopwatch, plans: Sequence[Plan], milliseconds: float) -> Plan | None:
    """The first of ``plans``, in order of falling cost, that takes at most ``milliseconds``."""
    if not plans:
        return None
    count = first(len(plans) - 1, lambda n: clock.of_plan(plans[n]) <= milliseconds)
    return None if count is None else plans[count]


def _failure(clock: Stopwatch, rules: str, fastest: float, milliseconds: float) -> CheckFailed:
    return CheckFailed(
        f"the latency cannot be brought down to {milliseconds:g} ms",
        why=f"in {clock.place} the original takes {clock.dense:.3g} ms, and the conversion with the fewest"
        f" MACs under the rules {rules} {fastest:.3g} ms",
        hint=f"--target-latency {1.05 * fastest:.3g}, or rules that convert more (--rules everywhere)",
    )
