"""Calibration of candidate plans, and the path that they lie on: what every search for a target needs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property

from octify.allocate.curves import error_curves
from octify.allocate.plans import AlphaPath, Plans
from octify.allocate.quick import affordable, halves, quick_trials
from octify.calibrate.inputs.images import Images
from octify.calibrate.options import Calibration
from octify.calibrate.recipe import Calibrated, calibrate_on
from octify.passes.resolve import Planned
from octify.plan import Plan
from octify.progress import Progress
from octify.report.allocation import SetRow

_QUICK = 24  # quick trials of a search's work, whose images one gets that decides between two plans
_FEWEST = 32  # images


@dataclass(frozen=True)
class Trials:
    """Calibration of plans of one model on one set of images."""

    plans: Plans
    images: Images
    options: Calibration
    progress: Progress

    @property
    def effort(self) -> str:
        """Effort of the result."""
        return self.options.effort

    @property
    def comparing(self) -> str:
        """Effort with which plans are compared."""
        return "standard" if self.effort == "thorough" else self.effort

    @cached_property
    def few(self) -> Images | None:
        """Images to compare plans on by quick trials; None where whole calibrations are as quick."""
        images = max(_FEWEST, affordable(self.plans.traced, _QUICK))
        if not self.images.held_out or 2 * images >= self.images.count:
            return None
        half = halves(self.images, images)
        return replace(half, held_out=(*half.held_out, *self.images.held_out))

    def judged(self, plan: Plan, name: str) -> Calibrated:
        """Convert and calibrate by ``plan`` in the way in which plans are compared."""
        if self.few is None:
            return self.calibrated(plan, self.comparing, name)
        self.progress(f"{name}: a quick calibration", 0, 1)
        seed = self.options.seed
        with quick_trials(self.plans.traced, self.few, seed, own_units=True) as trials:
            return trials.calibrated(plan)

    def calibrated(self, plan: Plan, effort: str, name: str) -> Calibrated:
        """Convert and calibrate by ``plan``; progress is reported under ``name``."""

        def progress(what: str, done: int, of: int) -> None:
            self.progress(f"{name}: {what}", done, of)

        traced, options = copy.deepcopy(self.plans.traced), replace(self.options, effort=effort)
        return calibrate_on(traced, Planned(plan), self.images, options, progress=progress)


def path_of(trials: Trials) -> AlphaPath:
    """Path of least error for the MACs saved, by error curves that are measured now."""
    curves = error_curves(trials.plans, trials.images, seed=trials.options.seed, progress=trials.progress)
    return AlphaPath.of(trials.plans, curves)


def sets_of(plans: Plans, plan: Plan) -> tuple[SetRow, ...]:
    """Alpha of every coupled set that the rules leave open."""
    return tuple(SetRow(free.paths, plan.conv(free.paths[0]).alpha_out) for free in plans.choices.free)
