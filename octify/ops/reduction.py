"""Reductions over positions or channels: mean, sum, maximum, variance, norm.

Over spatial dimensions the result of an octave value is octave again: one sample per channel, or
a strip (N, C, H, 1), whose low part is half as long. Without ``keepdim`` its parts, which are
small, are joined. Over channels the result is a dense map of one channel (see nn/reduction.py),
as the spatial gates of CBAM need.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from octify.emitter import Emitter, Value
from octify.layout import DENSE, Ids, Refusal, Walk
from octify.nn.reduction import (
    Extreme,
    Reduction,
    channel_extreme,
    channel_normalized,
    channel_reduced,
    low_reduced,
)
from octify.ops.arithmetic import emit_pointwise, layout_pointwise
from octify.ops.base import Op, operand
from octify.views import View, standard_roles

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
# Reductions that can be taken over positions first and over channels of the result then.
_IN_STEPS = ("mean", "sum", "amax", "amin", "norm")


@dataclass(frozen=True)
class _Call:
    """A reduction as it was called: over which dimensions, and what it returns."""

    kind: Reduction
    dims: tuple[int, ...]
    keepdim: bool
    correction: float
    with_indices: bool

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(d for d in self.dims if d >= 2)


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def _dims(given: Any, rank: int) -> tuple[int, ...]:
    if given is None:
        return tuple(range(rank))
    dims = given if isinstance(given, (tuple, list)) else (given,)
    return tuple(sorted(int(d) % rank for d in dims))


def _keyword(node: fx.Node, index: int, *names: str) -> Any:
    """An argument that PyTorch takes under several names (``dim`` or ``axis``)."""
    return next((node.kwargs[n] for n in names if n in node.kwargs), operand(node, index, names[0]))


def _call(node: fx.Node, rank: int) -> _Call | None:
    """The call's meaning; None for one that octify does not follow."""
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
        given: Any = node.kwargs.get("correction", 0 if unbiased is False else 1)
        correction = float(given)
    keepdim = bool(_keyword(node, place + 1, "keepdim", "keepdims"))
    return _Call(kind, _dims(dim, rank), keepdim, correction, with_indices)


def _of_two(walk: Walk | Emitter, node: fx.Node) -> bool:
    """Whether this is ``torch.max(x, y)``, which is pointwise."""
    other = operand(node, 1, "other")
    return _name(node) in ("max", "min") and isinstance(other, fx.Node)


def _layout(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    if _of_two(walk, node):
        return layout_pointwise(walk, node)
    source = operand(node)
    ids = walk.ids(source)
    if ids is None or not bool((ids != DENSE).any()):
        return walk.dense(node)
    call = _call(node, len(walk.shape(source)))
    if call is None:
        return Refusal(f"octify does not follow this form of {_name(node)}")
    if 0 in call.dims:
        return Refusal("it reduces over the batch")
    if 1 in call.dims and call.spatial and call.kind not in _IN_STEPS:
        return Refusal("it reduces over channels and positions at once")
    if call.with_indices and not _reads_values(node, by_attribute=not (call.spatial and call.keepdim)):
        return Refusal("it returns indices")
    if 1 in call.dims or not call.keepdim:
        return walk.dense(node)
    if call.with_indices:
        walk.set_parts(node, [View(standard_roles(len(walk.shape(source))), ids)])
        return None
    return ids


def _reads_values(node: fx.Node, by_attribute: bool) -> bool:
    """Whether all users take the values, not the indices, of ``torch.max(x, dim)``."""
    reads = [(user.target, user.args[1]) for user in node.users if len(user.args) > 1]
    allowed: list[tuple[Any, Any]] = [(operator.getitem, 0), (getattr, "values")][: 1 + by_attribute]
    return len(reads) == len(node.users) and all(read in allowed for read in reads)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    if _of_two(emitter, node):
        return emit_pointwise(emitter, node)
    source = operand(node)
    x = emitter.value(source)
    call = _call(node, len(emitter.shape(source)))
    assert call is not None
    if call.spatial:
        x = _over_positions(emitter, x, call)
    if 1 in call.dims:
        return Value(_over_channels(emitter, x, call))
    if call.keepdim:
        if call.with_indices:
            emitter.parts[node.name] = [x]
        return Value(None) if call.with_indices else x
    joined = _squeezed(emitter, emitter.join(node, x), call.dims)
    return Value(emitter.function(Extreme, joined) if call.with_indices else joined)


def _over_positions(emitter: Emitter, x: Value, call: _Call) -> Value:
    high = None if x.high is None else emitter.function(_PLAIN[call.kind], x.high, **_settings(call))
    low = emitter.function(low_reduced, x.low, x.high, call.kind, call.spatial, call.correction)
    return Value(high, low, x.mask)


def _settings(call: _Call) -> dict[str, Any]:
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


def _over_channels(emitter: Emitter, x: Value, call: _Call) -> fx.Node:
    if call.with_indices:
        return emitter.function(channel_extreme, x.high, x.low, call.kind, call.keepdim)
    made = emitter.function(channel_reduced, x.high, x.low, call.kind, call.correction)
    return made if call.keepdim else _squeezed(emitter, made, call.dims)


def _squeezed(emitter: Emitter, node: fx.Node, dims: tuple[int, ...]) -> fx.Node:
    return emitter.function(torch.squeeze, node, dims)


def _normalize_dim(node: fx.Node) -> tuple[Any, Any]:
    p, dim = operand(node, 1, "p"), operand(node, 2, "dim")
    return (2 if p is None else p), (1 if dim is None else dim)


def _layout_normalize(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    source = operand(node)
    ids = walk.ids(source)
    if ids is None or not bool((ids != DENSE).any()):
        return walk.dense(node)
    p, dim = _normalize_dim(node)
    if p != 2 or not isinstance(dim, int) or dim % len(walk.shape(source)) != 1:
        return Refusal("it normalises over other dimensions than channels")
    return ids


def _emit_normalize(emitter: Emitter, node: fx.Node) -> Value:
    x = emitter.value(operand(node))
    eps = operand(node, 3, "eps")
    call = emitter.function(channel_normalized, x.high, x.low, 1e-12 if eps is None else eps)
    return emitter.pair(call, x.mask)


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
    ),
    Op("normalisation over channels", _layout_normalize, _emit_normalize, functions=(F.normalize,)),
)
