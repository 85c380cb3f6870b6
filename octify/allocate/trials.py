"""Calibration of candidate plans, and the path that they lie on: what every search for a target needs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from octify.allocate.curves import error_curves
from octify.allocate.plans import AlphaPath, Plans
from octify.calibrate.inputs.images import Images
from octify.calibrate.options import Calibration
from octify.calibrate.recipe import Calibrated, calibrate_on
from octify.passes.resolve import Planned
from octify.plan import Plan
from octify.progress import Progress
from octify.report.allocation import SetRow


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
