"""Where a conversion of odd maps must be exact: what the last low row and column of no octave value reaches.

There a low value stands for less than a 2x2 block, and kernels that were made for whole blocks see one that
is not there. What depends on such a place is found by moving it: the projected reference is run again with
other values there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from octify.nn.views import from_map, to_map
from octify.passes import reference as projection
from tests.fuzz.observe import evaluated


def has_odd_maps(reference: nn.Module, x: Tensor) -> bool:
    """Whether the projected reference pools a map of odd size on the input ``x``."""
    odd = False

    def look(value: Tensor, *rest: Any) -> Tensor:
        nonlocal odd
        sizes = to_map(value, rest[1]).shape[2:][-2:]
        odd = odd or any(n % 2 for n in sizes)
        return projection.project_view(value, *rest)

    evaluated(_with(reference, look), x)
    return odd


def interior(reference: nn.Module, x: Tensor) -> Mapping[str, Tensor]:
    """Which elements of every output tensor do not depend on the border of an octave value."""
    want = evaluated(reference, x)
    kept = {name: torch.ones(value.shape, dtype=torch.bool) for name, value in want.tensors.items()}
    for seed, scale in enumerate((1.0, -1.0, 100.0, -100.0)):
        moved = evaluated(_with(reference, _mover(seed, scale)), x)
        for name, value in moved.tensors.items():
            kept[name] &= value == want.tensors[name]
    return kept


def _mover(seed: int, scale: float) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def move(value: Tensor, low: Any, roles: str, channels: Any) -> Tensor:
        whole = to_map(projection.project_view(value, low, roles, channels), roles).clone()
        for dim in range(max(2, whole.ndim - 2), whole.ndim):
            first = 2 * ((whole.shape[dim] - 1) // 2)
            border = whole.narrow(dim, first, whole.shape[dim] - first)
            border += scale * torch.rand(border.shape, generator=generator, dtype=torch.float64).to(border)
        return from_map(whole, roles, channels)

    return move


def _with(reference: nn.Module, project: Any) -> nn.Module:
    """``reference`` with ``project`` in the place of its projections."""
    other = copy.deepcopy(reference)
    for module in other.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                if node.target is projection.project_view:
                    node.target = project
            module.recompile()
    return other
