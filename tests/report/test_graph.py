"""The graph of a report: the original's operations, with every split and merge where it stands."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import octify
from octify.report.html.boxes import boxes
from octify.report.rows import GraphNode


class Bounded(nn.Module):
    """A dense skip into an octave sum (a split), and a median over channels, which needs a dense value (a merge)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sort(self.stem(x), dim=1).values
        y = torch.relu(self.norm(self.a(x)))
        z = x + self.b(y)
        return self.last(torch.sort(z, dim=1).values.relu())


def report() -> octify.Report:
    return octify.inspect(Bounded().eval(), torch.randn(1, 3, 16, 16), 0.5, rules="everywhere")


def by_name(nodes: tuple[GraphNode, ...]) -> dict[str, GraphNode]:
    return {node.name: node for node in nodes}


def test_all_boundaries_are_in_the_graph_between_their_ends() -> None:
    made = report()
    nodes = by_name(made.graph)
    kinds = [node.kind for node in made.graph]
    assert kinds.count("split") == made.totals.splits > 0
    assert kinds.count("merge") == made.totals.merges > 0
    drawn = []
    for node in made.graph:
        if node.kind in ("split", "merge"):
            (source,) = node.inputs
            assert (nodes[source].low_channels > 0) == (node.kind == "merge")
            assert any(node.name in other.inputs for other in made.graph)
            drawn.append((node.kind, node.reason))
    assert sorted(drawn) == sorted((row.kind, row.reason) for row in made.boundaries)


def test_operands_come_first_and_are_those_of_the_original() -> None:
    made = report()
    nodes = by_name(made.graph)
    seen: set[str] = set()
    for node in made.graph:
        assert set(node.inputs) <= seen
        seen.add(node.name)
    assert nodes["norm"].inputs == ("a",) and nodes["relu"].inputs == ("norm",)
    assert "b" in nodes["add"].inputs and len(nodes["add"].inputs) == 2
    assert nodes["b"].low_channels == len(
        octify.convert(Bounded(), torch.randn(1, 3, 16, 16), 0.5, rules="everywhere").plan.conv("b").low_out
    )


def test_what_follows_a_layer_unchanged_stands_in_its_box() -> None:
    made = report()
    found = {box.name: [node.name for node in box.nodes] for box in boxes(made)}
    assert found["a"] == ["a", "norm", "relu"]
    # b is a layer of its own, and the sum reads two values.
    assert "b" in found and "add" in found
    assert sorted(name for names in found.values() for name in names) == sorted(n.name for n in made.graph)


class Scaled(nn.Module):
    """Multiplies by a reshaped parameter, and flattens by a size that it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) * self.scale.reshape(1, 8, 1, 1)
        return y.view(y.size(0), -1)


def test_what_depends_on_no_input_is_not_drawn() -> None:
    made = octify.inspect(Scaled().eval(), torch.randn(1, 3, 8, 8), rules="everywhere")
    operations = [(node.operation, node.inputs) for node in made.graph if node.kind not in ("split", "merge")]
    assert [name for name, _ in operations] == ["input", "Conv2d", "mul", "view", "output"]
    assert all(len(inputs) == 1 for _, inputs in operations[1:])
