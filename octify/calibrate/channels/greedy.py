"""Channels chosen by the error that remains after refitting.

For every convolution that reads coupled channels, a covariance (``readers``) says what making a
channel low costs once the convolution is refitted (``sweep_operator`` has the formulas). A sixteenth of the
channels is chosen at a time.

That takes the low channel for ``P`` of the original's. What the converted network makes of it at
half resolution is only partly that: with a share ``noise_c`` (``production``) of its variance lost,
only ``1 - noise_c`` of what it would regain is regained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from octify.calibrate.channels.choices import choices, with_channels
from octify.calibrate.channels.noise import noise
from octify.calibrate.channels.readers import Reader, collected
from octify.calibrate.streams.chunks import Chunks
from octify.layout.channels import Ids, Mask
from octify.passes.resolve import Planned
from octify.progress import Progress
from octify.trace import Traced

ROUNDS = 16


def by_greedy(
    traced: Traced,
    planned: Planned,
    chunks: Chunks,
    *,
    rows: int = 20_000,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Planned:
    """Plan with the low channels whose loss is repaired best by refitting, as many as in ``planned``."""
    resolved = planned.on(traced)
    low = np.zeros_like(resolved.low)
    noisy = noise(traced, resolved.layout, chunks, seed=seed)
    sets = [some for some in choices(resolved.layout) if any(resolved.low[cell].any() for cell in some)]
    for members, readers in collected(traced, resolved.layout, sets, chunks, rows, seed, progress):
        choose_set(members, [int(resolved.low[cell].sum()) for cell in members], readers, low, noisy)
    return with_channels(planned.plan, resolved.layout, low)


def choose_set(
    members: Sequence[Ids], counts: Sequence[int], readers: Sequence[Reader], low: Mask, noisy: np.ndarray
) -> None:
    """Choose the low channels of one coupled set, in place; ``noisy`` by class, as ``low``."""
    choice = ChannelChoice(members, readers, low, noisy)
    left = list(counts)
    while any(left):
        steps = [min(n, max(1, math.ceil(len(cell) / ROUNDS))) for n, cell in zip(left, members, strict=True)]
        choice.take(steps)
        left = [n - step for n, step in zip(left, steps, strict=True)]


class ChannelChoice:
    """The low channels of one coupled set, chosen a few at a time: ``low`` is changed in place."""

    def __init__(
        self, members: Sequence[Ids], readers: Sequence[Reader], low: Mask, noisy: np.ndarray
    ) -> None:
        every = np.concatenate(members)
        self.members, self.low, self._kept = members, low, 1 - noisy
        self.readers = [reader for reader in readers if np.isin(reader.classes, every).any()]
        self._sweeps = [reader.sweep(low, every) for reader in self.readers]

    def take(self, counts: Sequence[int]) -> None:
        """Make ``counts`` channels more of each cell of the set low: those that cost least."""
        self._catch_up()
        cost = np.zeros(len(self.low))
        for ids, sweep in self._sweeps:
            lost, regained = (values.cpu().numpy() for values in sweep.costs())
            np.add.at(cost, ids, lost - self._kept[ids] * regained)
        for count, cell in zip(counts, self.members, strict=True):
            free = cell[~self.low[cell]]
            self.low[free[np.argsort(cost[free], kind="stable")[:count]]] = True

    def errors(self) -> list[float]:
        """Residual (weighted) variance of the outputs after refitting, for each of ``readers``."""
        self._catch_up()
        return [sweep.error() for _, sweep in self._sweeps]

    def _catch_up(self) -> None:
        """Tell the sweeps what has been taken since; the last taking is never told, unless asked for."""
        for i, (ids, sweep) in enumerate(self._sweeps):
            taken = self.low[ids]
            sweep.lower(torch.from_numpy(taken).to(sweep.matrix.device))
            self._sweeps[i] = (ids[~taken], sweep)
