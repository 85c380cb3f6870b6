"""Costs that a plan minimises: MACs, or any other quantity defined for one convolution at a time.

The planner keeps a coupled set octave only while that lowers the sum of these costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from octify.planning.convs import Conv


class Costs(Protocol):
    """Cost of every convolution and of every element of a split or merge layer, in one unit.

    noise:
        Share of the cost of the convolutions concerned below which a saving counts as none.
    memory_decides:
        Whether a set that saves nothing, and needs no boundary, is octave for the memory it saves.
    nothing_saved, boundary_too_dear:
        Reasons why a set stays dense.
    """

    @property
    def noise(self) -> float: ...
    @property
    def memory_decides(self) -> bool: ...
    @property
    def nothing_saved(self) -> str: ...
    @property
    def boundary_too_dear(self) -> str: ...

    def conv(self, conv: Conv, low_in: int, low_out: int) -> float:
        """Cost of all calls of ``conv``, given its numbers of low input and output channels (0, 0: dense)."""

    def boundary(self, elements: float) -> float:
        """Cost of split or merge layers, given the number of elements they pass on."""


@dataclass(frozen=True)
class MacCosts:
    """MACs under the paper's scheme (``Conv.share``).

    per_element:
        Cost of a split or merge layer, in MACs per element it passes on.
    """

    per_element: float
    noise: float = 1e-9  # rounding of the shares
    memory_decides: bool = True
    nothing_saved: str = "octave channels here would save no MACs"
    boundary_too_dear: str = (
        "octave channels here would save fewer MACs than their split and merge layers cost"
    )

    def conv(self, conv: Conv, low_in: int, low_out: int) -> float:
        """See ``Costs``."""
        sides = (low_in / conv.module.in_channels, low_out / conv.module.out_channels)
        return conv.macs * conv.share(*sides)

    def boundary(self, elements: float) -> float:
        """See ``Costs``."""
        return self.per_element * elements
