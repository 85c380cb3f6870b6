"""How many channels of a coupled set are low, and which.

Channels of a set fall into *cells*: channels that occur in the same values, and in the same
group of every grouped convolution. Taking the same share of every cell gives every value its
alpha and every group the same number of low channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from octify.layout import DENSE, Ids, Layout
from octify.ruleset import Settings


def cells(layout: Layout) -> list[list[Ids]]:
    """Cells of every coupled set, each an ascending array of channel classes.

    Channels are told apart by a random 64-bit signature of where they occur, so the cost is
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


def lowest(cell: Ids, count: int, score: Mapping[int, float] | None = None) -> Ids:
    """The ``count`` best low channels of a cell: the lowest scores, or the last ones without scores."""
    if score is None:
        return cell[len(cell) - count :]
    ranked: Sequence[int] = sorted((int(c) for c in cell), key=lambda c: score.get(c, math.inf))
    return np.array(sorted(ranked[:count]), dtype=np.int64)
