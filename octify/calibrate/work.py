"""How much work the steps of calibration are, so that the time left can be told from the time taken.

In multiply-accumulates of float32 matrix products. What moves numbers instead (pooling, gathering
rows, activations) or factors matrices in double precision runs slower and counts as many more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from octify.calibrate.images import batch_of
from octify.calibrate.rows import rows_wanted
from octify.calibrate.sites import Site
from octify.trace import Traced

Progress = Callable[[str, int, int], None]  # what, work done, of
_PER_VALUE = 250  # for one value of a map, which both models and both branches read
_PER_NUMBER = 60  # for one number of a linear system
_DOUBLE = 2  # for one multiply-accumulate in double precision


class Steps:
    """Progress through steps of known work: ``steps(what, work)`` tells that one begins."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, max(1, total), 0

    def __call__(self, what: str, work: int) -> None:
        """``what`` begins, which is ``work``."""
        self._progress(what, self._done, self._total)
        self._done += work


def of_run(traced: Traced, images: int) -> int:
    """Of running the original on ``images`` images."""
    return images * sum(facts.macs for facts in traced.facts.values()) // batch_of(traced)


def of_moments(rows: int, features: int) -> int:
    """Of adding up the second moments of ``features`` features."""
    return rows * features * (features // 2 + _PER_NUMBER)


def of_choice(features: int) -> int:
    """Of choosing half the channels that a convolution reads ``features`` numbers of."""
    return 6 * _DOUBLE * features**3


def of_fit(traced: Traced, site: Site, images: int, most_rows: int, refits: int) -> int:
    """Of fitting both branches of a convolution, and of running both models up to it."""
    conv = site.conv
    weights, groups = sum(p.numel() for p in conv.parameters() if p.ndim > 1), int(conv.groups)
    values = total = 0
    for node in (use.node for use in site.uses):
        values += images * math.prod(traced.shape(node) or (1,)) // batch_of(traced)
        total += 2 * images * traced.facts[node.name].macs // batch_of(traced)
    total += _PER_VALUE * values
    outputs = int(conv.out_channels)
    unknowns = max(1, weights // outputs)
    for positions in (values // outputs, values // outputs // 4):
        rows = min(rows_wanted(unknowns, groups, most_rows), positions)
        products = unknowns // 2 + 2 * (refits + 2) * outputs // groups
        total += groups * (rows * unknowns * (products + _PER_NUMBER) + _DOUBLE * unknowns**3 // 3)
    return total
