"""The forward walk over a traced graph: gives every channel an id and unites those that must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import fx, nn

from octify.layout.channels import DENSE, ConvNode, EvenSplit, Ids, Layout, Refusal
from octify.layout.roles import View, standard_roles
from octify.trace import Traced


class Walk:
    """The forward walk over a traced graph: what op files use to state their layout rule."""

    def __init__(
        self,
        traced: Traced,
        dense_outputs: frozenset[str],
        untouched: Mapping[str, str],
        read: Mapping[str, str],
    ) -> None:
        self.traced = traced
        self.dense_outputs = dense_outputs
        self.untouched = untouched
        self.read = read
        self.conflicts: set[str] = set()
        self.refusals: dict[str, Refusal] = {}
        self.even: list[EvenSplit] = []
        self.convs: list[ConvNode] = []
        self._ids: dict[str, Ids] = {}
        self._views: dict[str, View] = {}
        self._parts: dict[str, list[View]] = {}
        self._inputs: dict[str, Ids] = {}
        self._outputs: dict[str, Ids] = {}
        self._blocks: list[tuple[int, int]] = []
        self._free: list[tuple[int, int]] = []
        self._next = 0
        self._ties: list[tuple[Ids, Ids]] = []

    def ids(self, node: fx.Node) -> Ids | None:
        """Ids of a value's channels (dimension 1); None for values without spatial dimensions.

        Of a value whose channels are elsewhere (a ``View``) only operations that declare ``views``
        know more: to the others it is a dense value.
        """
        return self._ids.get(node.name)

    def view(self, node: object) -> View | None:
        """Ids of a value's channels with the roles of its dimensions; None without spatial dimensions."""
        if not isinstance(node, fx.Node):
            return None
        entry = self._views.get(node.name)
        if entry is not None:
            return entry
        ids = self.ids(node)
        return None if ids is None else View(standard_roles(len(self.shape(node))), ids)

    def coupled(self, node: fx.Node) -> bool:
        """Return whether a value, or a member of a tuple value, can have low channels."""
        views = (self.view(node), *(self.parts(node) or ()))
        return any(view is not None and bool((view.ids != DENSE).any()) for view in views)

    def reads_view(self, node: fx.Node) -> bool:
        """Return whether an operand can have low channels that are not in dimension 1."""
        return any(n.name in self._views and self.coupled(n) for n in node.all_input_nodes)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a tensor value at the example inputs."""
        shape = self.traced.shape(node)
        assert shape is not None, f"{node.name} is not a tensor"
        return shape

    def is_tensor(self, node: object) -> bool:
        """Return whether ``node`` is a graph node that yields one tensor."""
        return isinstance(node, fx.Node) and self.traced.shape(node) is not None

    def module(self, node: fx.Node) -> nn.Module:
        """The module that a ``call_module`` node calls."""
        module = self.traced.submodule(node)
        assert module is not None
        return module

    def dense(self, node: fx.Node) -> Ids | None:
        """All-dense ids for the output of ``node``, None if it has no spatial dimensions."""
        shape = self.traced.shape(node)
        return np.full(shape[1], DENSE) if shape is not None and len(shape) >= 3 else None

    def fresh(self, channels: int) -> Ids:
        """New ids for the output of a convolution."""
        start = self._next
        self._next += channels
        self._blocks.append((start, self._next))
        return np.arange(start, self._next)

    def free(self, channels: int) -> Ids:
        """New ids that no convolution decides about: low only where they are tied to low ones."""
        start = self._next
        self._next += channels
        self._free.append((start, self._next))
        return np.arange(start, self._next)

    def deciding(self, views: Sequence[View]) -> Sequence[View]:
        """``views``, less those of constants where the roles of the others differ: a constant has any."""
        if len({view.roles for view in views}) < 2:
            return views
        return [view for view in views if not self._is_undecided(view)] or views

    def _is_undecided(self, view: View) -> bool:
        """Return whether all channels are of constants that nothing is tied to so far."""
        ids = view.flat
        free = np.zeros(len(ids), dtype=bool)
        for start, stop in self._free:
            free |= (ids >= start) & (ids < stop)
        return bool(free.all()) and not any(np.isin(ids, side).any() for tie in self._ties for side in tie)

    def couple(self, a: Ids, b: Ids) -> Ids:
        """Tie two values channel by channel; where one is dense the other's id stands (it will be split)."""
        both = (a != DENSE) & (b != DENSE)
        if both.any() and not np.array_equal(a, b):
            self._ties.append((a[both], b[both]))
        return np.where(a != DENSE, a, b)

    def tie(self, a: Ids, b: Ids) -> None:
        """Tie two equally long id arrays without dense entries."""
        self._ties.append((a, b))

    def demand_even(self, node: fx.Node, ids: Ids, groups: int) -> None:
        """Ask for the same number of low channels in each of ``groups`` consecutive groups."""
        self.even.append(EvenSplit(node.name, ids, groups))

    def parts(self, node: fx.Node) -> list[View] | None:
        """Ids of the members of a tuple value, such as the result of ``chunk``."""
        return self._parts.get(node.name)

    def set_parts(self, node: fx.Node, parts: list[View]) -> None:
        """Keep the ids of the members of a tuple value."""
        self._parts[node.name] = parts

    def shared_input(self, node: fx.Node, ids: Ids) -> None:
        """Tie the inputs of all calls of one module that has parameters: it has one layout."""
        path = str(node.target)
        first = self._inputs.setdefault(path, ids)
        if first is ids:
            return
        if np.array_equal(first == DENSE, ids == DENSE):
            self.tie(first[first != DENSE], ids[ids != DENSE])
        else:
            self.conflicts.add(path)

    def conv(self, node: fx.Node, ids_in: Ids, ids_out: Ids) -> Ids:
        """Register a call of a convolution; returns its output ids."""
        path = str(node.target)
        self.shared_input(node, ids_in)
        self._outputs.setdefault(path, ids_out)
        self.convs.append(ConvNode(path, node.name, ids_in, ids_out))
        return ids_out

    def shared_output(self, node: fx.Node) -> Ids | None:
        """The output ids of an earlier call of the same convolution, if there was one."""
        return self._outputs.get(str(node.target))

    def record(self, node: fx.Node, result: Ids | View | Refusal | None) -> None:
        """Keep the result of a node's layout rule."""
        if isinstance(result, Refusal):
            self.refusals[node.name] = result
            result = self.dense(node)
        if isinstance(result, View):
            if not result.standard:
                self._views[node.name] = result
            result = result.ids if result.standard else self.dense(node)
        elif result is not None:
            self._keep_roles(node)
        if result is not None:
            self._ids[node.name] = result

    def _keep_roles(self, node: fx.Node) -> None:
        """A dense result shaped like an operand with other roles has these roles too.

        Nothing depends on it but what a linear layer behind it is taken for.
        """
        for source in node.all_input_nodes:
            view = self._views.get(source.name)
            if view is not None and self.traced.shape(source) == self.traced.shape(node):
                self._views[node.name] = View(view.roles, np.full_like(view.ids, DENSE))

    def finish(self) -> Layout:
        """Resolve all ties into classes and coupled sets."""
        classes = _components(self._next, self._ties)
        set_of = _sets(classes, self._blocks)

        def resolve(ids: Ids) -> Ids:
            if not len(ids) or not len(classes):
                return ids
            return np.where(ids == DENSE, DENSE, classes[np.maximum(ids, 0)])

        flat = self._ids | {name: view.flat for name, view in self._views.items()}
        return Layout(
            ids={name: resolve(ids) for name, ids in flat.items()},
            views={name: view.roles for name, view in self._views.items()},
            refusals=dict(self.refusals),
            even=tuple(EvenSplit(e.node, resolve(e.ids), e.groups) for e in self.even),
            convs=tuple(ConvNode(c.path, c.node, resolve(c.ids_in), resolve(c.ids_out)) for c in self.convs),
            blocks=tuple(resolve(np.arange(a, b)) for a, b in self._blocks),
            set_of=set_of,
        )


def _components(count: int, ties: Sequence[tuple[Ids, Ids]]) -> Ids:
    """The smallest member of each node's connected component, by hooking and pointer jumping."""
    label = np.arange(count)
    if not ties:
        return label
    a = np.concatenate([left for left, _ in ties])
    b = np.concatenate([right for _, right in ties])
    while True:
        smaller = np.minimum(label[a], label[b])
        before = label.copy()
        np.minimum.at(label, label[a], smaller)
        np.minimum.at(label, label[b], smaller)
        while not np.array_equal(label, label[label]):
            label = label[label]
        if np.array_equal(before, label):
            return label


def _sets(classes: Ids, blocks: Sequence[tuple[int, int]]) -> Ids:
    """Number the coupled sets: classes that share a block, directly or through others."""
    ties = []
    for start, stop in blocks:
        members = classes[start:stop]
        ties.append((members[:-1], members[1:]))
    component = _components(len(classes), ties)
    # A class is stored at its smallest id; every id of the class must find the same set.
    component = component[classes] if len(classes) else component
    _, numbered = np.unique(component, return_inverse=True)
    return numbered.astype(np.int64)
