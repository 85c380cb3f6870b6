"""Layered drawings: edges lead down one rank at a time, nothing overlaps, and everything is connected as before."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from octify.report.html.layered import layered

WIDTH = 100.0


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """A directed acyclic graph, operands first."""
    count = draw(st.integers(1, 14))
    found: dict[str, list[str]] = {}
    for i in range(count):
        earlier = list(found)
        reads = draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True)) if earlier else []
        found[f"n{i}"] = reads
    return found


@given(graphs())
def test_every_edge_is_drawn_downwards(graph: dict[str, list[str]]) -> None:
    placed = layered(graph, WIDTH)
    assert set(placed.rank) == set(graph)
    below: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for a, b in placed.edges:
        assert b[1] == a[1] + 1
        below.setdefault(a, set()).add(b)
    for name, reads in graph.items():
        assert placed.rank[name] == max((placed.rank[r] + 1 for r in reads), default=0)
    # Following a value from its node along its own lane leads to exactly those who read it.
    for name in graph:
        reached, todo = set(), [(name, placed.rank[name])]
        while todo:
            for slot in below.get(todo.pop(), ()):
                if slot[0] == name:
                    todo.append(slot)
                else:
                    reached.add(slot[0])
        assert reached == {other for other, reads in graph.items() if name in reads}


@given(graphs())
def test_nothing_overlaps_and_all_is_inside(graph: dict[str, list[str]]) -> None:
    placed = layered(graph, WIDTH)
    rows: dict[int, list[tuple[float, float]]] = {}
    for (name, rank), x in placed.x.items():
        half = WIDTH / 2 if placed.rank[name] == rank else 0.0
        assert x - half >= -1e-6 and x + half <= placed.width + 1e-6
        rows.setdefault(rank, []).append((x - half, x + half))
    for row in rows.values():
        row.sort()
        assert all(right < left for (_, right), (left, _) in itertools.pairwise(row))


def test_a_chain_is_straight() -> None:
    placed = layered({f"n{i}": [f"n{i - 1}"] if i else [] for i in range(5)}, WIDTH)
    assert set(placed.x.values()) == {WIDTH / 2}
    assert (placed.width, placed.ranks) == (WIDTH, 5)
