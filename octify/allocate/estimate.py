"""Error curves of all coupled sets from one pass of second moments and gradients: nothing is calibrated.

What making a channel low costs after refitting is what the greedy choice of channels adds up
(``octify.calibrate.channels.greedy``), for every convolution that reads it: the variance of its outputs
that refitting leaves, each output weighted by its squared gradient (Fisher), and with what a low channel
loses because half resolution has to make it. Here a reader counts with the positions of its output as well:
gradients are those of one position, and errors of different positions add up.

The unit is that of the likelihood, not of the output error; only ratios between sets matter for a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from octify.allocate.budget import Budget, FreeSet
from octify.allocate.path import Curve, convex
from octify.calibrate.channels.greedy import ROUNDS, Choice
from octify.calibrate.channels.noise import noise
from octify.calibrate.channels.readers import Reader, collected
from octify.calibrate.inputs.images import Images
from octify.layout.channels import Ids
from octify.progress import Progress
from octify.trace import Traced

_ROWS = 5_000  # of the moments; a choice of channels takes more


def estimated_curves(
    traced: Traced,
    choices: Budget,
    images: Images,
    *,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> dict[int, Curve]:
    """The curve of every free set, by its number. Deterministic for a seed.

    A set that no convolution reads whose moments are measured (transposed and depthwise ones alone) gets
    the mean of the others' for its curve.
    """
    free = [each for each in choices.free if len(each.levels) > 1]
    noisy = noise(traced, choices.layout, images.chunks, seed=seed)
    sets = [each.members for each in free]
    known: dict[int, list[float]] = {}
    moments = collected(traced, choices.layout, sets, images.chunks, _ROWS, seed, progress)
    for each, (members, readers) in zip(free, moments, strict=True):
        every = np.concatenate(members)
        mine = [reader for reader in readers if np.isin(reader.classes, every).any()]
        if mine:
            known[each.number] = _climbed(members, mine, choices.layout.classes, noisy)
    mean = np.mean(list(known.values()), axis=0) if known else np.linspace(0, 1, ROUNDS + 1) ** 2
    return {each.number: _curve(each, known.get(each.number, mean.tolist())) for each in free}


def _climbed(
    members: Sequence[Ids], readers: Sequence[Reader], classes: int, noisy: np.ndarray
) -> list[float]:
    """What is lost when 0, 1 / ROUNDS, ... of the channels of each of ``members`` are low."""
    low = np.zeros(classes, dtype=bool)
    weighted = [replace(each, importance=each.importance * each.positions) for each in readers]
    choice = Choice(members, weighted, low, noisy)
    errors, done = [0.0], [0] * len(members)
    for step in range(1, ROUNDS + 1):
        goal = [round(step * len(cell) / ROUNDS) for cell in members]
        errors.append(errors[-1] + choice.take([n - m for n, m in zip(goal, done, strict=True)]))
        done = goal
    return errors


def _curve(free: FreeSet, errors: Sequence[float]) -> Curve:
    shares = [level.share for level in free.levels]
    at = np.interp(shares, np.linspace(0, 1, ROUNDS + 1), errors)
    return Curve(tuple(shares), convex(shares, np.maximum(at, 0.0).tolist()))
