"""Channel ids: which channels of which values must share a frequency level.

Every channel of every value gets an id, and ids that the graph ties together (a residual
add, a depthwise convolution, a shared module) are united. One class of united ids is a
*channel* of the network; classes that occur together in some convolution's output form a
*coupled set*, the unit for which alpha is decided. The same problem is known from
structured pruning (DepGraph, arXiv 2301.12900).

An id of -1 is a channel that is always high-frequency: the model's input, the output of
an operation octify has no rule for, or of a convolution that is left dense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import fx

from octify.layout.roles import map_shape, standard_roles

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
DENSE = -1


@dataclass(frozen=True)
class Refusal:
    """Operation that needs dense inputs, and the reason. Its output is dense too."""

    reason: str


@dataclass(frozen=True)
class EvenSplit:
    """A grouped convolution's demand: every group of ``ids`` has the same number of low channels."""

    node: str
    ids: Ids
    groups: int


@dataclass(frozen=True)
class ConvNode:
    """A convolution as the layout sees it: ids of its input and output channels."""

    path: str
    node: str
    ids_in: Ids
    ids_out: Ids


@dataclass(frozen=True)
class Layout:
    """Coupling of a whole graph.

    ids:
        Class of every channel of every value, by node name; -1 is dense.
    views:
        Roles of the dimensions of values that are not (N, C, *size).
    set_of:
        Coupled set of every class (indexed by class).
    blocks:
        The classes of every convolution's output.
    """

    ids: Mapping[str, Ids]
    views: Mapping[str, str]
    refusals: Mapping[str, Refusal]
    even: tuple[EvenSplit, ...]
    convs: tuple[ConvNode, ...]
    blocks: tuple[Ids, ...]
    set_of: Ids

    @property
    def classes(self) -> int:
        """Length of a table indexed by class."""
        return len(self.set_of)

    def sets(self, ids: Ids) -> Sequence[int]:
        """Coupled sets that occur in a value, ascending."""
        present = ids[ids != DENSE]
        return [int(s) for s in np.unique(self.set_of[present])] if len(present) else []

    def roles(self, name: str, shape: Sequence[int]) -> str:
        """Roles of the dimensions of a value of ``shape``."""
        return self.views.get(name) or standard_roles(len(shape))

    def map_shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape (N, C, *size) of a value of ``shape``, wherever its channels are."""
        return map_shape(self.roles(name, shape), shape) if name in self.views else tuple(shape)

    def reads_view(self, node: fx.Node) -> bool:
        """Return whether an operand can have low channels that are not in dimension 1."""
        names = [n.name for n in node.all_input_nodes if n.name in self.views]
        return any(bool((self.ids[name] != DENSE).any()) for name in names)

    def mask(self, name: str, low: Mask) -> Mask | None:
        """Low channels of the value ``name``, given the low classes; None where it is dense."""
        ids = self.ids.get(name)
        return None if ids is None else mask_of(ids, low)


@dataclass(frozen=True)
class Resolved:
    """The layout under a plan; ``low`` says of every channel class whether it is low."""

    layout: Layout
    low: Mask

    def mask(self, name: str) -> Mask | None:
        """Low channels of the value of node ``name``; None where it is dense."""
        return self.layout.mask(name, self.low)


def mask_of(ids: Ids, low: Mask) -> Mask | None:
    """Low channels of a value with ``ids``; None where there are none."""
    if not len(low):
        return None
    mask: Mask = (ids != DENSE) & low[np.maximum(ids, 0)]
    return mask if mask.any() else None


def indices(mask: Mask | None) -> tuple[int, ...]:
    """The channels that ``mask`` names, ascending; none for None."""
    return () if mask is None else tuple(int(c) for c in np.flatnonzero(mask))
