"""Reductions over positions or channels: mean, sum, maximum, variance, norm.

Over spatial dimensions the result of an octave value is octave again: one sample per channel, or
a strip (N, C, H, 1), whose low part is half as long. Without ``keepdim`` its parts, which are
small, are joined. Over channels the result is a dense map of one channel (see nn/reduction.py),
as the spatial gates of CBAM need. Over groups of channels, (N, groups, C / groups, H, W) as split
attention has them, the groups get one layout and each branch is reduced.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from octify.layout.channels import Ids, Refusal
from octify.layout.roles import View, sizes, standard_roles
from octify.nn.reduction import (
    Extreme,
    Reduction,
    channel_extreme,
    channel_reduced,
    low_reduced,
)
from octify.nn.slices import slices_reduced
from octify.nn.views import from_map
from octify.ops.arithmetic import emit_pointwise, layout_pointwise
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.softmax import MIXED, across, are_mixed, tied
from octify.ops.walk import Walk

_KINDS: dict[str, Reduction] = {
    "mean": "mean",
    "sum": "sum",
    "amax": "amax",
    "amin": "amin",
    "max": "amax",
    "min": "amin",
    "var": "var",
    "std": "std",
    "norm": "norm",
    "linalg_vector_norm": "norm",
}
_SPREADS = ("var", "std")
_LINEAR = ("mean", "sum")
# Reductions that can be taken over positions first and over channels of the result then.
_IN_STEPS = ("mean", "sum", "amax", "amin", "norm")


@dataclass(frozen=True)
class _ReductionCall:
    """A reduction as it was called: over which dimensions, and what it returns."""

    kind: Reduction
    roles: str
    dims: tuple[int, ...]
    keepdim: bool
    correction: float
    with_indices: bool

    def _having(self, role: str) -> tuple[int, ...]:
        return tuple(d for d in self.dims if self.roles[d] == role)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Reduced spatial dimensions, as dimensions of the map (N, C, *size)."""
        return tuple(2 + self.roles[:d].count("S") for d in self._having("S"))

    @property
    def channels(self) -> tuple[int, ...]:
        return self._having("C")

    @property
    def axes(self) -> tuple[int, ...]:
        """Reduced channel dimensions, as axes of the channel array."""
        return tuple(self.roles[:d].count("C") for d in self.channels)

    @property
    def across_slices(self) -> bool:
        """Return whether the call reduces some of several channel dimensions, and nothing else."""
        return 0 < len(self.channels) < self.roles.count("C") and self.channels == self.dims


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def _dims(dim: Any, rank: int) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(rank))
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    return tuple(sorted(int(d) % rank for d in dims))


def _keyword(node: fx.Node, index: int, *names: str) -> Any:
    """An argument that PyTorch takes under several names (``dim`` or ``axis``)."""
    return next((node.kwargs[n] for n in names if n in node.kwargs), operand(node, index, names[0]))


def _call(node: fx.Node, roles: str) -> _ReductionCall | None:
    """The call's meaning for an operand with ``roles``; None for one that octify does not follow."""
    name = _name(node)
    kind = _KINDS[name]
    computed = any(isinstance(value, fx.Node) for value in (*node.args[1:], *node.kwargs.values()))
    if computed or node.kwargs.get("dtype") is not None:
        return None
    if kind == "norm" and operand(node, 1, "ord" if "linalg" in name else "p") not in (None, 2, 2.0, "fro"):
        return None
    place = 2 if kind == "norm" else 1
    dim = _keyword(node, place, "dim", "axis")
    with_indices = name in ("max", "min")
    if isinstance(dim, bool) or (with_indices and not isinstance(dim, int)):
        return None  # the whole tensor's
    correction = 1.0
    if name in _SPREADS:
        place = 2  # of keepdim, behind unbiased
        unbiased = _keyword(node, 2, "unbiased")
        argument: Any = node.kwargs.get("correction", 0 if unbiased is False else 1)
        correction = float(argument)
    keepdim = bool(_keyword(node, place + 1, "keepdim", "keepdims"))
    return _ReductionCall(kind, roles, _dims(dim, len(roles)), keepdim, correction, with_indices)


def _of_two(walk: Walk | Emitter, node: fx.Node) -> bool:
    """Return whether ``node`` is ``torch.max(x, y)``, which is pointwise."""
    other = operand(node, 1, "other")
    return _name(node) in ("max", "min") and isinstance(other, fx.Node)


def _layout(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    if _of_two(walk, node):
        return layout_pointwise(walk, node)
    source = operand(node)
    view = walk.view(source)
    if view is None or not walk.coupled(source):
        return walk.dense(node)
    call = _call(node, view.roles)
    reason = f"octify does not follow this form of {_name(node)}" if call is None else _reason(node, call)
    if reason is not None or call is None:
        return Refusal(reason or "")
    if call.across_slices:
        if call.kind not in _LINEAR and are_mixed(view.ids, call.axes):
            return Refusal(MIXED)
        result = _across_slices(walk, view, call)
        if call.with_indices:
            walk.set_parts(node, [result])
        return None if call.with_indices else result
    if call.channels or not call.keepdim:
        return walk.dense(node)
    if call.with_indices:
        walk.set_parts(node, [view])
        return None
    return view


def _reason(node: fx.Node, call: _ReductionCall) -> str | None:
    """Why the operand must be dense."""
    standard = call.roles == standard_roles(len(call.roles))
    if 0 in call.dims:
        return "it reduces over the batch"
    if call.across_slices:
        values = not call.with_indices or _reads_values(node, by_attribute=False)
        return None if values else "it returns indices"
    if call.channels and len(call.channels) < call.roles.count("C"):
        return "it reduces over positions and some of the channel dimensions"
    if call.channels and call.spatial and call.kind not in _IN_STEPS:
        return "it reduces over channels and positions at once"
    by_attribute = not (call.spatial and call.keepdim)
    if call.with_indices and not (standard and _reads_values(node, by_attribute)):
        return "it returns indices"
    return None


def _across_slices(walk: Walk, view: View, call: _ReductionCall) -> View:
    """(N, slices, C, *size) over the slices: the same channels of all slices are tied."""
    ids = tied(walk, view.ids, call.axes)
    if call.keepdim:
        return View(view.roles, ids)
    roles = "".join(role for dim, role in enumerate(view.roles) if dim not in call.dims)
    return View(roles, ids.squeeze(call.axes))


def _reads_values(node: fx.Node, by_attribute: bool) -> bool:
    """Return whether all users read the values, not the indices, of ``torch.max(x, dim)``."""
    reads = [(user.target, user.args[1]) for user in node.users if len(user.args) > 1]
    allowed: list[tuple[Any, Any]] = [(operator.getitem, 0), (getattr, "values")][: 1 + by_attribute]
    return len(reads) == len(node.users) and all(read in allowed for read in reads)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    if _of_two(emitter, node):
        return emit_pointwise(emitter, node)
    source = operand(node)
    x = emitter.value(source)
    call = _call(node, emitter.roles(source))
    assert call is not None
    if call.across_slices:
        result = across(emitter, source, call.axes, slices_reduced, call.kind, call.correction)
        if call.with_indices:
            emitter.parts[node.name] = [result]
        return Value(None) if call.with_indices else result
    if call.spatial:
        x = _over_positions(emitter, x, call)
    if call.channels:
        return Value(_over_channels(emitter, x, call))
    if call.keepdim:
        if call.with_indices:
            emitter.parts[node.name] = [x]
        return Value(None) if call.with_indices else x
    channels = sizes(call.roles, emitter.shape(source), "C")
    joined = _squeezed(emitter, _in_place(emitter, emitter.join(node, x), call, channels), call.dims)
    return Value(emitter.function(Extreme, joined) if call.with_indices else joined)


def _in_place(emitter: Emitter, node: fx.Node, call: _ReductionCall, channels: tuple[int, ...]) -> fx.Node:
    """A map with its dimensions where the operand has them."""
    if call.roles == standard_roles(len(call.roles)):
        return node
    return emitter.function(from_map, node, call.roles, channels)


def _over_positions(emitter: Emitter, x: Value, call: _ReductionCall) -> Value:
    high = None if x.high is None else emitter.function(_PLAIN[call.kind], x.high, **_settings(call))
    low = emitter.function(low_reduced, x.low, x.high, call.kind, call.spatial, call.correction)
    return Value(high, low, x.mask)


def _settings(call: _ReductionCall) -> dict[str, Any]:
    spread = {"correction": call.correction} if call.kind in _SPREADS else {}
    return {"dim": list(call.spatial), "keepdim": True, **spread}


_PLAIN: dict[Reduction, Any] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
    "var": torch.var,
    "std": torch.std,
    "norm": torch.linalg.vector_norm,
}


def _over_channels(emitter: Emitter, x: Value, call: _ReductionCall) -> fx.Node:
    if call.with_indices:
        return emitter.function(channel_extreme, x.high, x.low, call.kind, call.keepdim)
    node = emitter.function(channel_reduced, x.high, x.low, call.kind, call.correction)
    node = _in_place(emitter, node, call, (1,) * len(call.channels))
    return node if call.keepdim else _squeezed(emitter, node, call.dims)


def _squeezed(emitter: Emitter, node: fx.Node, dims: tuple[int, ...]) -> fx.Node:
    return emitter.function(torch.squeeze, node, dims)


OPS = (
    Op(
        "reduction",
        _layout,
        _emit,
        functions=(
            torch.mean,
            torch.sum,
            torch.amax,
            torch.amin,
            torch.max,
            torch.min,
            torch.var,
            torch.std,
            torch.norm,
            torch.linalg.vector_norm,
        ),
        methods=("mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm"),
        views=True,
    ),
)
