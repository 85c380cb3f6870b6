"""Balance of savings against added boundaries: which coupled sets are worth being octave.

``Costs`` defines the unit: MACs, or measured time. At alpha 1 a set between two octave ones
saves no MACs: its convolutions cost a quarter either way. Where it needs no boundaries it stays
octave, for the memory that it saves.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from octify.layout.channels import DENSE, Ids, Layout, Mask
from octify.layout.roles import is_vector
from octify.planning.choose import Choice
from octify.planning.convs import Conv
from octify.planning.costs import Costs
from octify.trace import Traced


@dataclass(frozen=True)
class _Side:
    """One side of a convolution: its channels, and low channels by coupled set."""

    low: Mapping[int, int]

    def count(self, octave: Container[int], without: int = -1) -> int:
        """Low channels when the sets in ``octave`` are octave."""
        return sum(n for s, n in self.low.items() if s in octave and s != without)


def _low_by_set(ids: Ids, layout: Layout, low: Mask) -> dict[int, int]:
    present = ids[ids != DENSE]
    present = present[low[present]]
    sets, counts = np.unique(layout.set_of[present], return_counts=True)
    return {int(s): int(n) for s, n in zip(sets, counts, strict=True)}


class _Ledger:
    """Gain of every coupled set, given which sets are octave."""

    def __init__(
        self, traced: Traced, layout: Layout, convs: Sequence[Conv], low: Mask, costs: Costs
    ) -> None:
        self.boundary = _boundary_elements(traced, layout, low)
        self.costs = costs
        self._sources = (traced, layout, low)
        self.convs = list(convs)
        self.sides = [
            tuple(_Side(_low_by_set(ids, layout, low)) for ids in (c.calls[0].ids_in, c.calls[0].ids_out))
            for c in convs
        ]
        self.touching: dict[int, list[int]] = {}
        for index, (into, out) in enumerate(self.sides):
            for s in {**into.low, **out.low}:
                self.touching.setdefault(s, []).append(index)
        self.octave = set(self.touching)

    @cached_property
    def on_maps(self) -> set[int]:
        """Sets with low channels in a value of more than one sample per channel: memory to save."""
        traced, layout, low = self._sources
        return {
            s
            for name, ids in layout.ids.items()
            if (shape := traced.facts[name].shape) is not None
            and not is_vector(layout.map_shape(name, shape))
            for s in _low_by_set(ids, layout, low)
        }

    def gain(self, s: int) -> float:
        """Saving of the set ``s`` less the cost of its boundaries, with the other sets as they are."""
        saved = total = 0.0
        for index in self.touching[s]:
            conv, (into, out) = self.convs[index], self.sides[index]
            without = self.costs.conv(conv, into.count(self.octave, s), out.count(self.octave, s))
            saved += without - self.costs.conv(conv, into.count(self.octave), out.count(self.octave))
            total += without
        saved = 0.0 if abs(saved) <= self.costs.noise * total else saved
        return saved - self.costs.boundary(self.boundary.get(s, 0.0))

    def pays(self, s: int, gain: float) -> bool:
        """Return whether converting the set pays: by its saving or, if that is zero, by its memory."""
        memory = self.costs.memory_decides and s in self.on_maps and not self.boundary.get(s)
        return gain > 0 or (gain == 0 and memory)

    def why_not(self, s: int) -> str:
        """Reason why a set does not pay."""
        bound = self.costs.boundary(self.boundary.get(s, 0.0))
        return self.costs.boundary_too_dear if bound else self.costs.nothing_saved

    def neighbours(self, s: int) -> set[int]:
        """Octave sets that share a convolution with ``s``."""
        near: set[int] = set()
        for index in self.touching[s]:
            for side in self.sides[index]:
                near |= side.low.keys() & self.octave
        return near - {s}


def _boundary_elements(traced: Traced, layout: Layout, low: Mask) -> dict[int, float]:
    """Elements that every set's split and merge layers pass on; a value's are shared among its sets."""
    costs: dict[int, float] = {}

    def charge(name: str, ids: Ids) -> None:
        shape = traced.facts[name].shape
        if shape is None or is_vector(layout.map_shape(name, shape)):
            return
        by_set = _low_by_set(ids, layout, low)
        total = sum(by_set.values())
        for s, n in by_set.items():
            costs[s] = costs.get(s, 0.0) + math.prod(shape) * n / total

    merged: set[str] = set()
    for node in traced.module.graph.nodes:
        out = layout.ids.get(node.name)
        for source in node.all_input_nodes:
            ids = layout.ids.get(source.name)
            if ids is None:
                continue
            if node.name in layout.refusals and source.name not in merged:
                merged.add(source.name)
                charge(source.name, ids)
            same_map = traced.facts[source.name].shape == traced.facts[node.name].shape
            if out is None or not same_map or traced.submodule(node) is not None:
                continue
            if len(ids) != len(out):  # a dense value, whose channels are where the others have theirs
                ids = np.full(len(out), DENSE)
            if bool(((ids == DENSE) & (out != DENSE)).any()):
                charge(source.name, np.where(ids == DENSE, out, DENSE))
    return costs


def dense_where_it_costs(
    traced: Traced, layout: Layout, convs: Sequence[Conv], choice: Choice, costs: Costs
) -> Choice:
    """Remove the sets that do not pay from ``choice``, the worst first."""
    ledger = _Ledger(traced, layout, convs, choice.low, costs)
    gains = {s: ledger.gain(s) for s in ledger.octave}
    reasons = dict(choice.reasons)
    heap = [(gain, s) for s, gain in gains.items()]
    heapq.heapify(heap)
    while heap:
        gain, s = heapq.heappop(heap)
        if s not in ledger.octave or gain != gains[s]:
            continue  # decided, or the entry is out of date
        if gain > 0:
            break
        if ledger.pays(s, gain):
            continue
        near = ledger.neighbours(s)
        ledger.octave.discard(s)
        reasons[s] = ledger.why_not(s)
        for other in near:
            gains[other] = ledger.gain(other)
            heapq.heappush(heap, (gains[other], other))
    kept = np.isin(layout.set_of, sorted(ledger.octave))
    return Choice(choice.low & kept, reasons)
