"""What a plan tries to save: MACs, or whatever else can be told of one convolution at a time.

The planner keeps a coupled set octave only while that lowers the sum of these costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from octify.planning.convs import Conv


class Costs(Protocol):
    """A price for every convolution and for every element of a split or merge layer, in one unit.

    noise:
        A saving below this share of what the convolutions concerned cost counts as none.
    memory_decides:
        Whether a set that saves nothing, and needs no boundary, is octave for the memory it saves.
    nothing_saved, boundary_too_dear:
        Why a set stays dense.
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
        """Of all calls of ``conv`` with so many low channels in and out (0 and 0: as it is)."""

    def boundary(self, elements: float) -> float:
        """Of split or merge layers that pass on so many elements."""


@dataclass(frozen=True)
class MacCosts:
    """MACs under the paper's scheme (``Conv.share``).

    per_element:
        What a split or merge layer costs, in MACs per element it passes on.
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
