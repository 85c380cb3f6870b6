"""Between a value whose channels are spread over its dimensions and a map (N, C, *size).

``roles`` has a letter for every dimension (``octify.layout.roles``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octify.nn.functional import dense_shape


def _order(roles: str) -> list[int]:
    return [dim for role in "NCS" for dim, r in enumerate(roles) if r == role]


def to_map(x: Tensor, roles: str) -> Tensor:
    """The map (N, C, *size) of ``x``, its channel dimensions joined in row-major order."""
    order = _order(roles)
    if order != sorted(order):
        x = x.permute(order)
    channels = roles.count("C")
    if channels == 0:
        return x.unsqueeze(1)
    return x if channels == 1 else x.flatten(1, channels)


def from_map(x: Tensor, roles: str, channels: Sequence[int]) -> Tensor:
    """The inverse of ``to_map``: the channels of ``x`` spread over dimensions of sizes ``channels``."""
    if not channels:
        x = x.squeeze(1)
    elif len(channels) > 1:
        x = torch.unflatten(x, 1, tuple(channels))
    order = _order(roles)
    return x if order == sorted(order) else x.permute([order.index(dim) for dim in range(len(order))])


def view_shape(
    high: Tensor | None, low: Tensor | None, roles: str, channels: Sequence[int]
) -> tuple[int, ...]:
    """Shape of the view that the branches ``high`` and ``low`` stand for."""
    whole = dense_shape(high, low)
    parts = {"N": iter(whole[:1]), "C": iter(channels), "S": iter(whole[2:])}
    return tuple(next(parts[role]) for role in roles)
