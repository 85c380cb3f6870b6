"""Sizes that a low branch alone cannot tell.

A low branch of ``n`` samples stands for ``2 n``, or for ``2 n - 1`` of a map of odd size; a map of two
samples has a low branch of one, as a map of one has. The high branch tells which it is. A value all of whose
channels are low has none: it is taken for ``2 n``, and its layers refuse to make any other size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from octify.errors import PlanError


def is_tellable(size: Sequence[int]) -> bool:
    """Return whether a low branch determines the spatial ``size`` of its map (two halved axes)."""
    return not any(n == 2 or (n % 2 and n > 1) for n in tuple(size)[-2:])


def require_tellable(high: Tensor | None, size: Sequence[int]) -> None:
    """Raise PlanError for a map of ``size`` without a high branch that its low branch cannot tell."""
    if high is None and not is_tellable(size):
        shown = "x".join(str(int(n)) for n in size)
        raise PlanError(
            f"a map of {shown} cannot be kept in low channels alone",
            why="all channels of this value are low, and a low branch alone stands for even sizes above 2",
            hint="use an input size at which the maps are even, or convert at this size, or at a lower alpha",
        )
