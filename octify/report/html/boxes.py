"""Boxes of a report's drawing: operations that keep a layer's shape share its box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from octify.report.model import ReportData
from octify.report.rows import GraphNode, LayerRow


@dataclass(frozen=True)
class Box:
    """A run of operations, each the only reader of the one before, alike in shape and low channels."""

    nodes: tuple[GraphNode, ...]
    layer: LayerRow | None
    inputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the box, unique in the drawing."""
        return self.nodes[0].name

    @property
    def kind(self) -> str:
        """``"input"``, ``"output"``, ``"operation"``, ``"split"`` or ``"merge"``."""
        return self.nodes[0].kind

    @property
    def last(self) -> GraphNode:
        """Last operation, whose value leaves the box."""
        return self.nodes[-1]


def boxes(report: ReportData) -> Sequence[Box]:
    """Return the boxes, operands first, without operations that compute no map, such as constants."""
    layers = {row.path: row for row in report.layers}
    readers = Counter(name for node in report.graph for name in node.inputs)
    inside: dict[str, str] = {}  # node -> its box
    boxes_by_name: dict[str, Box] = {}
    for node in report.graph:
        host = boxes_by_name.get(inside.get(node.inputs[0], "")) if len(node.inputs) == 1 else None
        layer = layers.get(node.path or node.name)
        if host and layer is None and readers[host.last.name] == 1 and _alike(host.last, node):
            boxes_by_name[host.name] = replace(host, nodes=(*host.nodes, node))
            inside[node.name] = host.name
            continue
        reads = tuple(dict.fromkeys(inside[name] for name in node.inputs if name in inside))
        boxes_by_name[node.name] = Box((node,), layer, reads)
        inside[node.name] = node.name
    return list(boxes_by_name.values())


def _alike(a: GraphNode, b: GraphNode) -> bool:
    return a.kind == b.kind == "operation" and (a.shape, a.low_channels) == (b.shape, b.low_channels)
