"""Layered layout of a directed graph: every edge leads downwards (Sugiyama et al. 1981).

Ranks are longest paths from the sources. A value that is read further down gets one lane, a slot on every
rank it passes, whoever reads it, so that a dense block's edges run side by side instead of criss-cross.
Slots are ordered by barycentres; then each rank's positions are the least squares closest to its neighbours'
that keep order and distances (isotonic regression, pool adjacent violators).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SWEEPS = 8
_GAP = 18.0  # between slots of a rank
_LANE = 8.0  # width of a lane's slot

Slot = tuple[str, int]  # a node on its rank, or its lane on a rank below


@dataclass(frozen=True)
class Drawing:
    """Positions of a layout: the centre x of every slot, the rank of every node, and the edges.

    edges:
        Pairs of slots on neighbouring ranks, with the node whose value runs along the edge.
    """

    x: Mapping[Slot, float]
    rank: Mapping[str, int]
    edges: Sequence[tuple[Slot, Slot]]
    width: float
    ranks: int


def layered(inputs: Mapping[str, Sequence[str]], width: float) -> Drawing:
    """Lay out nodes of ``width``, which come operands first, each with the names of its operands."""
    rank = _ranks(inputs)
    edges = _edges(inputs, rank)
    rows = _rows(rank, edges)
    above: dict[Slot, list[Slot]] = {slot: [] for row in rows for slot in row}
    below: dict[Slot, list[Slot]] = {slot: [] for row in rows for slot in row}
    for a, b in edges:
        above[b].append(a)
        below[a].append(b)
    for sweep in range(_SWEEPS):
        _order(rows if sweep % 2 == 0 else rows[::-1], above if sweep % 2 == 0 else below)
    x = _positions(rows, above, below, rank, width)
    left = min((x[slot] - _breadth(slot, rank, width) / 2 for slot in x), default=0.0)
    right = max((x[slot] + _breadth(slot, rank, width) / 2 for slot in x), default=0.0)
    return Drawing({slot: value - left for slot, value in x.items()}, rank, edges, right - left, len(rows))


def _ranks(inputs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    rank: dict[str, int] = {}
    for name, read in inputs.items():
        rank[name] = max((rank[source] + 1 for source in read if source in rank), default=0)
    return rank


def _edges(inputs: Mapping[str, Sequence[str]], rank: Mapping[str, int]) -> list[tuple[Slot, Slot]]:
    """Cut edges into steps of one rank each; all readers of a value share a lane."""
    edges: dict[tuple[Slot, Slot], None] = {}
    for name, read in inputs.items():
        for source in read:
            if source not in rank:
                continue
            for r in range(rank[source], rank[name] - 1):
                edges[(source, r), (source, r + 1)] = None
            edges[(source, rank[name] - 1), (name, rank[name])] = None
    return list(edges)


def _rows(rank: Mapping[str, int], edges: Sequence[tuple[Slot, Slot]]) -> list[list[Slot]]:
    rows: list[dict[Slot, None]] = [{} for _ in range(max(rank.values(), default=-1) + 1)]
    for name, r in rank.items():
        rows[r][name, r] = None
    for a, b in edges:
        rows[a[1]][a] = None
        rows[b[1]][b] = None
    return [list(row) for row in rows]


def _order(rows: Sequence[list[Slot]], neighbours: Mapping[Slot, Sequence[Slot]]) -> None:
    """Sort every row by the mean place of its slots' neighbours in the row before; slots without any stay."""
    place: dict[Slot, float] = {}
    for row in rows:
        key = {}
        for i, slot in enumerate(row):
            places = [place[n] for n in neighbours[slot] if n in place]
            key[slot] = sum(places) / len(places) if places else i / max(1, len(row) - 1)
        row.sort(key=lambda slot: key[slot])
        for i, slot in enumerate(row):
            place[slot] = i / max(1, len(row) - 1) if len(row) > 1 else 0.5


def _positions(
    rows: Sequence[Sequence[Slot]],
    above: Mapping[Slot, Sequence[Slot]],
    below: Mapping[Slot, Sequence[Slot]],
    rank: Mapping[str, int],
    width: float,
) -> dict[Slot, float]:
    x: dict[Slot, float] = {}
    for row in rows:
        offsets = _offsets(row, rank, width)
        middle = (offsets[0] + offsets[-1]) / 2 if offsets else 0.0
        x |= {slot: offset - middle for slot, offset in zip(row, offsets, strict=True)}
    # Downwards by the rank above, upwards by the rank below, to propagate places; then by both.
    passes = [(rows, [above]), (rows[::-1], [below])] * _SWEEPS + [(rows, [above, below])] * _SWEEPS
    for order, sides in passes:
        for row in order:
            goals, weights = [], []
            for slot in row:
                pulls = [(x[n], _pull(slot, n, rank)) for side in sides for n in side[slot]]
                total = sum(pull for _, pull in pulls)
                goals.append(sum(place * pull for place, pull in pulls) / total if total else x[slot])
                weights.append(total or 1.0)
            x |= dict(zip(row, _apart(goals, weights, _offsets(row, rank, width)), strict=True))
    return x


def _pull(a: Slot, b: Slot, rank: Mapping[str, int]) -> float:
    """Weight of an edge's verticality: largest for lanes, then for edges between boxes."""
    lanes = _is_lane(a, rank) + _is_lane(b, rank)
    return (4.0, 1.0, 8.0)[lanes]


def _offsets(row: Sequence[Slot], rank: Mapping[str, int], width: float) -> list[float]:
    """Positions of a row's slots packed as tightly as possible."""
    offsets: list[float] = []
    for i, slot in enumerate(row):
        half = _breadth(slot, rank, width) / 2
        offsets.append(offsets[-1] + _breadth(row[i - 1], rank, width) / 2 + _GAP + half if i else 0.0)
    return offsets


def _apart(targets: Sequence[float], weights: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """Positions closest to ``targets`` that keep the order and at least the distances of ``offsets``."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, count
    for value, weight, offset in zip(targets, weights, offsets, strict=True):
        mean, count = value - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, heft, members = blocks.pop()
            mean = (mean * weight + other * heft) / (weight + heft)
            weight, count = weight + heft, count + members
        blocks.append((mean, weight, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _is_lane(slot: Slot, rank: Mapping[str, int]) -> bool:
    return rank[slot[0]] != slot[1]


def _breadth(slot: Slot, rank: Mapping[str, int], width: float) -> float:
    return _LANE if _is_lane(slot, rank) else width
