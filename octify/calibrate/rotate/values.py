"""The values of a graph, united as they turn out to have one basis."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from octify.calibrate.rotate.passing import Channels
from octify.trace import Traced


@dataclass
class Group:
    """Values of one basis: paths and calls of what writes and reads them, and why they keep their basis."""

    channels: int
    writers: list[tuple[str, fx.Node]] = field(default_factory=list)
    readers: list[tuple[str, fx.Node, Channels]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Values:
    """Positions of the values' channels, and the group of each."""

    def __init__(self, traced: Traced) -> None:
        self._traced = traced
        self._where: dict[fx.Node, Channels] = {}
        self._parent: dict[fx.Node, fx.Node] = {}
        self._groups: dict[fx.Node, Group] = {}

    def __contains__(self, node: object) -> bool:
        return node in self._where

    def where(self, node: object) -> Channels | None:
        """Position of a value's channels; None for a value without channels."""
        return self._where.get(node) if isinstance(node, fx.Node) else None

    def group(self, node: fx.Node) -> Group:
        """The group of a value."""
        return self._groups[self._root(node)]

    def groups(self) -> list[Group]:
        """All groups, in order of their first values."""
        return list(self._groups.values())

    def begin(self, node: fx.Node, where: Channels) -> None:
        """A value of a basis of its own."""
        shape = self._traced.shape(node) or ()
        self._where[node] = where
        self._groups[node] = Group(shape[where.dim] if len(shape) > where.dim else 0)

    def follow(self, node: fx.Node, source: fx.Node, where: Channels) -> None:
        """A value of the basis of ``source``."""
        self._where[node], self._parent[node] = where, source

    def refuse(self, node: fx.Node, reason: str) -> None:
        """Say why the basis of a value is given; nothing for what has no channels."""
        if node in self._where:
            self.group(node).reasons.append(reason)

    def tie(self, a: fx.Node, b: fx.Node) -> None:
        """Two values have one basis."""
        first, other = self._root(a), self._root(b)
        if first is other:
            return
        mine, theirs = self._groups[first], self._groups.pop(other)
        if mine.channels != theirs.channels:
            mine.reasons.append("a layer is called with different numbers of channels")
        mine.writers += theirs.writers
        mine.readers += theirs.readers
        mine.reasons += theirs.reasons
        self._parent[other] = first

    def _root(self, node: fx.Node) -> fx.Node:
        while self._parent.get(node, node) is not node:
            node = self._parent[node]
        return node
