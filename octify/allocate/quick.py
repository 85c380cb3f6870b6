"""Quick calibrations of many plans of one model: with effort fast, on few images and few rows.

They are for comparisons: all are alike, and what they share is computed once (``calibrate.prefix``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from octify.calibrate.fit.repair import ROWS
from octify.calibrate.inputs.images import Images
from octify.calibrate.options import Calibration
from octify.calibrate.prefix import Prefix, prefix_values
from octify.calibrate.recipe import Calibrated, calibrate_on
from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.sizes import batch_of
from octify.passes.resolve import Planned
from octify.plan import Plan
from octify.trace import Traced

_WORK = 1.5e12  # MACs of the network over the images of all trials together
_PER_VALUE = 100  # MACs that take as long as one value of a map does
_MOST_IMAGES = 64  # images of a trial to fit on, and as many to measure on
_FEWEST_IMAGES = 16
_ROWS_PER_IMAGE = 250  # of a fit, where images must be spared


@dataclass(frozen=True)
class QuickTrials:
    """Trials on ``images``; cheapest in ascending order of ``place_of``."""

    traced: Traced
    images: Images
    seed: int
    prefix: Prefix

    def place_of(self, plan: Plan) -> int:
        """Place in the graph of the first node that ``plan`` changes."""
        return self.prefix.place_of(plan)

    def calibrated(self, plan: Plan) -> Calibrated:
        """Convert and calibrate by ``plan``."""
        self.prefix.prepare(plan)
        options = Calibration((), "fast", seed=self.seed)
        return calibrate_on(
            copy.deepcopy(self.traced), Planned(plan), self.images, options, prefix=self.prefix
        )


@contextmanager
def quick_trials(
    traced: Traced, images: Images, seed: int, *, own_units: bool = False
) -> Iterator[QuickTrials]:
    """Trials of plans of ``traced``, on images to fit on and, kept aside, to measure on.

    ``own_units``: errors are of outputs in those (``compare.outputs.in_own_units``).
    """
    rows = ROWS if images.count >= _MOST_IMAGES else _ROWS_PER_IMAGE * images.count
    with prefix_values(traced, images, seed, rows, own_units=own_units) as prefix:
        yield QuickTrials(traced, images, seed, prefix)


def trial_images(traced: Traced, trials: int, images: Images) -> Images:
    """Images to fit on and others to measure on, as many as so many trials allow."""
    most = max(_FEWEST_IMAGES, affordable(traced, trials))
    return halves(images, min(images.count // 2, _MOST_IMAGES, most))


def affordable(traced: Traced, trials: int) -> int:
    """Images for each of so many trials."""
    work = sum(facts.macs + _PER_VALUE * facts.new_bytes / 4 for facts in traced.facts.values())
    return int(_WORK / max(1.0, trials * work / batch_of(traced)))


def halves(images: Images, count: int) -> Images:
    """The first ``count`` images to fit on, and as many after them to measure on."""
    return Images(_part(images.chunks, 0, count), _part(images.chunks, count, 2 * count), ())


def _part(chunks: Chunks, start: int, stop: int) -> tuple[tuple[Tensor, ...], ...]:
    """Slice of the images from ``start`` to ``stop``."""
    parts = []
    for chunk in chunks:
        taken = tuple(x[max(start, 0) : max(stop, 0)] for x in chunk)
        parts += [taken] if len(taken[0]) else []
        start, stop = start - len(chunk[0]), stop - len(chunk[0])
    return tuple(parts)
