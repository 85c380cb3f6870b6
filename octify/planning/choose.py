"""The number of low channels of a coupled set, and their selection.

Channels of a set fall into *cells*: channels that occur in the same values, and in the same
group of every grouped convolution. Taking the same share of every cell gives every value its
alpha and every group the same number of low channels (``octify.planning.uneven`` has the exception).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octify.layout.channels import DENSE, Ids, Layout, Mask
from octify.planning.portions import low_channels, portions
from octify.planning.ruleset import Settings
from octify.planning.uneven import uneven_counts
from octify.trace import Traced


@dataclass(frozen=True)
class Choice:
    """Low channels by class, and the reason for each set without any."""

    low: Mask
    reasons: Mapping[int, str]


def choose(traced: Traced, layout: Layout, alphas: Mapping[int, float], settings: Settings) -> Choice:
    """The low channels when every set takes its alpha: ``alphas``, by set."""

    def alpha_of(s: int) -> float:
        return alphas.get(s, 0.0)

    def low_in_all(s: int, channels: int) -> int:
        return low_count(channels, 1, alpha_of(s), settings)

    divided = cells(layout)
    uneven = uneven_counts(layout, divided, low_in_all) if settings.uneven_groups else {}
    read = portions(layout, divided)
    low = np.zeros(layout.classes, dtype=bool)
    for s, parts in enumerate(divided):
        for cell, count in zip(parts, low_counts(parts, alpha_of(s), settings), strict=True):
            first = int(cell[0])
            low[low_channels(read.get(first, [cell]), uneven[s][first] if s in uneven else count)] = True
    whole = {
        s: low_cells for s, parts in enumerate(divided) if (low_cells := [c for c in parts if low[c].all()])
    }
    if whole:
        for s in _sets_with_uncertain_size(traced, layout) & whole.keys():
            low[[int(cell[0]) for cell in whole[s]]] = False
    for ids in _values_of_uncertain_size(traced, layout):
        if bool((ids != DENSE).all() and low[ids].all()):  # some of the channels of a larger value
            low[ids[0]] = False
    thin = _thin(divided, low, alphas, settings.least_channels)
    for s in thin:
        low[np.concatenate(divided[s])] = False
    none = [s for s, parts in enumerate(divided) if parts and not any(low[cell].any() for cell in parts)]
    return Choice(low, {s: thin.get(s) or _why_none(divided[s], alphas.get(s)) for s in none})


def _thin(
    divided: Sequence[Sequence[Ids]], low: Mask, alphas: Mapping[int, float], least: int
) -> dict[int, str]:
    """Reasons of the sets that would have fewer than ``least`` channels on one side, but some."""
    reasons = {}
    for s, parts in enumerate(divided):
        count = sum(int(low[cell].sum()) for cell in parts)
        total = sum(len(cell) for cell in parts)
        fewest = min(n for n in (count, total - count) if n) if total else least
        if count and fewest < least:
            side = "low" if fewest == count else "high"
            reasons[s] = (
                f"alpha {alphas.get(s, 0.0):g} of {total} channels leaves {fewest} {side} ones, "
                f"and under {least} gain no time"
            )
    return reasons


def _why_none(parts: Sequence[Ids], alpha: float | None) -> str:
    if alpha is None:
        return "it has one sample per channel: there is no resolution to halve"
    if alpha == 0:
        return "alpha is 0"
    sizes = sorted({len(cell) for cell in parts})
    if alpha == 1:
        return "an odd size could not be told from a low branch alone"
    each = f"each part of {sizes[-1]}" if len(parts) > 1 else str(sizes[-1])
    return f"alpha {alpha:g} of {each} channels rounds to no low channel"


def _sets_with_uncertain_size(traced: Traced, layout: Layout) -> set[int]:
    """Sets with a value whose size does not follow from its low branch alone."""
    return {s for ids in _values_of_uncertain_size(traced, layout) for s in layout.sets(ids)}


def _values_of_uncertain_size(traced: Traced, layout: Layout) -> list[Ids]:
    """Ids of values whose size does not follow from a low branch: odd sizes, and 2 (ambiguous with 1)."""
    uncertain = []
    for name, ids in layout.ids.items():
        shape = traced.facts[name].shape
        if shape is None:
            continue
        if any(n == 2 or (n % 2 and n > 1) for n in layout.map_shape(name, shape)[2:]):
            uncertain.append(ids)
    return uncertain


def cells(layout: Layout) -> list[list[Ids]]:
    """Cells of every coupled set, each an ascending array of channel classes.

    A random 64-bit signature of its occurrences identifies each channel, so the cost is
    linear in the number of channels.
    """
    count = layout.classes
    random = np.random.default_rng(0)
    signature = np.zeros(count, dtype=np.uint64)
    used = np.zeros(count, dtype=bool)
    for block in layout.blocks:
        members = np.unique(block)
        used[members] = True
        signature[members] ^= random.integers(1, 2**63, dtype=np.uint64)
    for demand in layout.even:
        labels = np.arange(len(demand.ids)) // (len(demand.ids) // demand.groups)
        keys = random.integers(1, 2**63, size=demand.groups, dtype=np.uint64)
        present = demand.ids != DENSE
        pairs = np.unique(np.stack([demand.ids[present], labels[present]]), axis=1)
        np.bitwise_xor.at(signature, pairs[0], keys[pairs[1]])
    members = np.flatnonzero(used)
    result: list[list[Ids]] = [[] for _ in range(int(layout.set_of.max()) + 1 if count else 0)]
    if not len(members):
        return result
    order = np.lexsort((members, signature[members], layout.set_of[members]))
    ordered = members[order]
    sets, marks = layout.set_of[ordered], signature[ordered]
    ends = np.flatnonzero((np.diff(sets) != 0) | (marks[1:] != marks[:-1])) + 1
    for cell in np.split(ordered, ends):
        result[int(layout.set_of[cell[0]])].append(cell)
    return result


def low_counts(parts: Sequence[Ids], alpha: float, settings: Settings) -> list[int]:
    """Low channels in each of a set's cells, where its groups are alike."""
    alike = len({len(cell) for cell in parts}) == 1
    return [low_count(len(cell), len(parts) if alike else 1, alpha, settings) for cell in parts]


def low_count(size: int, parts: int, alpha: float, settings: Settings) -> int:
    """Low channels in each of ``parts`` equal cells of ``size`` channels.

    ``int(alpha * size)`` (Chen et al. 2019), or rounded so that the total is a multiple of the
    rule's ``round_to`` where the cells are large enough for that.
    """
    total = size * parts
    step = settings.round_to if total >= 4 * settings.round_to else settings.round_narrow_to
    each = step // math.gcd(step, parts)
    if each <= 1 or size < 2 * each:
        return int(alpha * size + 1e-9)
    return min(size, each * math.floor(alpha * size / each + 0.5))
