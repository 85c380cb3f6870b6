"""Roles of a value's dimensions, when its channels are not simply dimension 1.

A *view* names every dimension by one letter, its role: ``N`` the batch, ``C`` a part of the
channel index, ``S`` a spatial axis. (N, C, H, W) is ``NCSS``, channels-last is ``NSSC``, and
the middle of a channel shuffle, (N, groups, C / groups, H, W), is ``NCCSS``. The channels of a
view are the elements of an array over its ``C`` dimensions, in row-major order.

Reshaping and permuting only reorder channels, so octave values keep their two branches as
maps (N, channels, *size) all the while, with the channels of each branch in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def standard_roles(rank: int) -> str:
    """The roles of (N, C, *size)."""
    return "NC" + "S" * (rank - 2)


def sizes(roles: str, shape: Sequence[int], role: str) -> tuple[int, ...]:
    """Sizes of the dimensions that have ``role``."""
    return tuple(n for r, n in zip(roles, shape, strict=True) if r == role)


def map_shape(roles: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape (N, C, *size) of the map that a value of ``shape`` is a view of."""
    channels = int(np.prod(sizes(roles, shape, "C"), dtype=np.int64))
    return (*sizes(roles, shape, "N"), channels, *sizes(roles, shape, "S"))


@dataclass(frozen=True, eq=False)
class View:
    """A value's roles, and an id for every channel: an array over the ``C`` dimensions."""

    roles: str
    ids: npt.NDArray[np.int64]

    @property
    def standard(self) -> bool:
        """Return whether the value is an ordinary (N, C, *size)."""
        return self.roles == standard_roles(len(self.roles))

    @property
    def flat(self) -> npt.NDArray[np.int64]:
        """The ids in row-major order, as the map has them."""
        return self.ids.ravel()


def regrouped(roles: str, before: Sequence[int], after: Sequence[int]) -> str | None:
    """Roles after a reshape that only splits, joins, adds and drops channel dimensions; None for others.

    Reshaping keeps row-major order, so it is enough that every spatial dimension comes back
    whole and that between them the channel dimensions have the same product.
    """
    if tuple(after) == tuple(before):
        return roles
    if not after or before[0] != after[0] or 1 in sizes(roles, before, "S"):
        return None
    result, rest = "N", list(after[1:])
    for role, size in _runs(roles[1:], before[1:]):
        product = 1
        while rest and (product < size if role == "C" else rest[0] == 1):
            product *= rest.pop(0)
            result += "C"
        if role == "S":
            if not rest or rest.pop(0) != size:
                return None
            result += "S"
        elif product != size:
            return None
    return result + "C" * len(rest) if all(n == 1 for n in rest) else None


def _runs(roles: str, shape: Sequence[int]) -> list[tuple[str, int]]:
    """Roles and sizes with neighbouring channel dimensions joined."""
    runs: list[tuple[str, int]] = []
    for role, size in zip(roles, shape, strict=True):
        if role == "C" and runs and runs[-1][0] == "C":
            runs[-1] = ("C", runs[-1][1] * size)
        else:
            runs.append((role, size))
    return runs


def is_vector(shape: Sequence[int]) -> bool:
    """Return whether a value (N, C, *size) is one sample per channel, or has no spatial dimensions."""
    return all(n == 1 for n in shape[2:])


def is_reduced(shape: Sequence[int]) -> bool:
    """Return whether a value was reduced over a spatial axis: a vector, or a strip such as (N, C, H, 1)."""
    spatial = shape[2:]
    return is_vector(shape) or any(n == 1 for n in spatial[len(spatial) == 3 :])
