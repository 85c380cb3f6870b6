"""The choices of a planner under its rules: the alphas open to each coupled set, and their MACs.

The MACs here are those of the paper's scheme (``Conv.share``), which are bilinear in the alphas of a
convolution's two sides. They order the choices; what a plan really costs is counted on its graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from octify.layout.channels import DENSE, Ids, Layout
from octify.planning.choose import cells, low_count, low_counts
from octify.planning.convs import Conv
from octify.planning.policies import Policies, policies_of
from octify.planning.portions import portions
from octify.planning.ruleset import RuleSet, Settings
from octify.trace import Traced

Shares = npt.NDArray[np.float64]
_MOST_LEVELS = 64


@dataclass(frozen=True)
class Level:
    """Alpha to request, and the share of low channels that it rounds to."""

    alpha: float
    share: float


@dataclass(frozen=True)
class FreeSet:
    """Coupled set whose alpha the rules leave open.

    number:
        Index in ``Layout.set_of``.
    paths:
        Paths of the convolutions that write it.
    members:
        Its channels, in parts that all get the same share of low channels.
    levels:
        Levels in ascending order; the first is dense.
    """

    number: int
    paths: tuple[str, ...]
    members: tuple[Ids, ...]
    levels: tuple[Level, ...]


class MacModel:
    """MACs of all convolutions as a function of the share of low channels of every coupled set."""

    def __init__(self, convs: Sequence[Conv], layout: Layout) -> None:
        self.convs = list(convs)
        self.sets = int(layout.set_of.max()) + 1 if layout.classes else 0
        self._sides = [
            tuple(_weights(ids, layout) for ids in (c.calls[0].ids_in, c.calls[0].ids_out)) for c in convs
        ]
        self._touching: dict[int, list[int]] = {}
        for index, sides in enumerate(self._sides):
            for s in {**sides[0], **sides[1]}:
                self._touching.setdefault(s, []).append(index)

    def macs(self, shares: Shares) -> float:
        """MACs when the coupled sets have these shares of low channels, (sets,)."""
        return sum(self._macs(index, shares) for index in range(len(self.convs)))

    def saved(self, shares: Shares, s: int, share: float) -> float:
        """MACs saved when set ``s`` changes to ``share`` and the others stay."""
        changed = shares.copy()
        changed[s] = share
        return sum(self._macs(i, shares) - self._macs(i, changed) for i in self._touching.get(s, ()))

    def neighbours(self, s: int) -> set[int]:
        """Sets that share a convolution with ``s``: what they save depends on its share."""
        return {t for i in self._touching.get(s, ()) for side in self._sides[i] for t in side}

    def _macs(self, index: int, shares: Shares) -> float:
        conv = self.convs[index]
        alphas = (sum(w * shares[s] for s, w in side.items()) for side in self._sides[index])
        return conv.macs * conv.share(*alphas)


@dataclass(frozen=True)
class Budget:
    """Search space: the free sets, the shares of the others, and the MACs of a choice."""

    layout: Layout
    free: tuple[FreeSet, ...]
    fixed: Shares
    model: MacModel


def budget(
    traced: Traced, rules: RuleSet, exclude: Sequence[str] = (), policies: Policies | None = None
) -> Budget:
    """Build the search space that ``rules`` leave. Raises RuleError as ``make_plan`` does."""
    policies = policies or policies_of(traced, rules, exclude)
    layout = policies.layout(traced, policies.dense)
    convs = policies.convs(traced, policies.dense)
    divided = cells(layout)
    read = portions(layout, divided)
    fixed = np.zeros(len(divided))
    free = []
    for s, paths in sorted(_writers(convs, layout).items()):
        parts = divided[s]
        rules_of = (policies.rules.get(path) for path in paths)
        stated = [rule.alpha for rule in rules_of if rule is not None and rule.alpha is not None]
        if stated:
            fixed[s] = _share(parts, min(stated), rules.settings)
            continue
        members = tuple(part for cell in parts for part in read.get(int(cell[0]), [cell]))
        free.append(FreeSet(s, paths, members, _levels(parts, rules.settings)))
    return Budget(layout, tuple(free), fixed, MacModel(convs, layout))


def _writers(convs: Sequence[Conv], layout: Layout) -> Mapping[int, tuple[str, ...]]:
    """Paths of the convolutions that decide the alpha of each coupled set."""
    writers: dict[int, dict[str, None]] = {}
    for conv in convs:
        if not conv.vector and not conv.depthwise:
            for s in {s for call in conv.calls for s in layout.sets(call.ids_out)}:
                writers.setdefault(s, {})[conv.path] = None
    return {s: tuple(paths) for s, paths in writers.items()}


def _weights(ids: Ids, layout: Layout) -> Mapping[int, float]:
    """Fraction of the channels on one side of a convolution that each coupled set makes up."""
    sets, counts = np.unique(layout.set_of[ids[ids != DENSE]], return_counts=True)
    return {int(s): int(n) / len(ids) for s, n in zip(sets, counts, strict=True)}


def _share(parts: Sequence[Ids], alpha: float, settings: Settings) -> float:
    channels = sum(len(cell) for cell in parts)
    if settings.uneven_groups:
        return low_count(channels, 1, alpha, settings) / channels
    return sum(low_counts(parts, alpha, settings)) / channels


def _levels(parts: Sequence[Ids], settings: Settings) -> tuple[Level, ...]:
    """Shares that some alpha rounds to; a selection if they are very many."""
    channels = sum(len(cell) for cell in parts)
    steps = {channels} if settings.uneven_groups else {len(cell) for cell in parts}
    alphas = sorted({j / n for n in steps for j in range(n + 1)})
    every = sorted((Level(alpha, _share(parts, alpha, settings)) for alpha in alphas), key=lambda e: e.share)
    of_share = groupby(every, lambda level: level.share)
    chosen = [min(group, key=lambda level: abs(level.alpha - share)) for share, group in of_share]
    stride = -(-len(chosen) // _MOST_LEVELS)
    return (*chosen[:-1:stride], chosen[-1])
