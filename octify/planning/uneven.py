"""Choice of the groups that take one more low channel where the groups of a convolution cannot be alike.

For 32 groups of 4 channels, alpha 1/8 makes 16 channels low: one in every second group. With shares
a and b of low input and output channels a group costs ``1 - 3/4 (a + b - a b)`` of its dense MACs
(Chen et al. 2019, section 3.2). The sum over groups is the formula at the mean shares, the
paper's figure, if the product averages to the product of the averages: of k groups with an extra
input and l with an extra output, ``k l / g`` of g are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from octify.layout.channels import DENSE, EvenSplit, Ids, Layout
from octify.nn.groups import MAX_RUNS


def spread(low: int, groups: int, beside: Sequence[int]) -> tuple[int, ...]:
    """Low channels of each of ``groups`` groups: ``low // groups``, and one more in some.

    ``beside`` are the low channels of the same groups on the other side of the convolution. Where
    they are all alike the last groups get the extra ones; else as many of the groups that have
    more there as if the two sides were independent, the last of them, and the last of the others.
    """
    base, extra = divmod(low, groups)
    rich = [g for g in range(groups) if beside[g] > min(beside)]
    poor = [g for g in range(groups) if beside[g] == min(beside)]
    common = min(len(rich), round(extra * len(rich) / groups))
    chosen = {*rich[len(rich) - common :], *poor[len(poor) - (extra - common) :]}
    return tuple(base + (g in chosen) for g in range(groups))


def uneven_counts(
    layout: Layout, cells: Sequence[Sequence[Ids]], low_in_all: Callable[[int, int], int]
) -> dict[int, dict[int, int]]:
    """Low channels by first channel of a cell, for every set whose groups cannot have equally many.

    Only sets whose cells are the groups of a convolution, and where few runs of equal groups result.
    ``low_in_all`` returns the total number of low channels for a set's number of channels.
    """
    decided: dict[int, dict[int, int]] = {}
    low_of_cell = np.zeros(layout.classes, dtype=np.int64)  # kept at the first channel of each
    for _, demands in groupby(layout.even, lambda demand: demand.node):
        sides = list(demands)
        for side in sides:
            s, firsts = _cells_of(layout, cells, side)
            if s is None or s in decided:
                continue
            low = low_in_all(s, len(side.ids))
            beside = [0] * side.groups
            for other in sides:
                if other is not side:
                    beside = _low_by_group(other, low_of_cell)
            counts = spread(low, side.groups, beside)
            runs = sum(1 for _ in groupby(zip(counts, beside, strict=True)))
            if low % side.groups and runs <= MAX_RUNS:
                decided[s] = dict(zip(firsts, counts, strict=True))
                low_of_cell[firsts] = counts
    return decided


def _cells_of(
    layout: Layout, cells: Sequence[Sequence[Ids]], demand: EvenSplit
) -> tuple[int | None, list[int]]:
    """The set whose cells are the demand's groups, if there is one, and the first channel of each."""
    if (demand.ids == DENSE).any():
        return None, []
    sets = layout.sets(demand.ids)
    groups = np.sort(demand.ids.reshape(demand.groups, -1), axis=1)
    own = {int(cell[0]): cell for cell in cells[sets[0]]}
    same = [np.array_equal(group, own.get(int(group[0]), ())) for group in groups]
    if len(sets) > 1 or len(own) != demand.groups or not all(same):
        return None, []
    return sets[0], [int(group[0]) for group in groups]


def _low_by_group(demand: EvenSplit, low_of_cell: Ids) -> list[int]:
    counts = np.where(demand.ids == DENSE, 0, low_of_cell[np.maximum(demand.ids, 0)])
    return [int(n) for n in counts.reshape(demand.groups, -1).sum(axis=1)]
