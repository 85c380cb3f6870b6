"""Assignment to a part of a map: ``y[:, :4] = 0``, ``y[:, 4:] = z``.

Channels that are assigned are the value's from then on, as if the rest and the value were concatenated. A
number is assigned in each branch, and a window of whole blocks too::

    P(x with c in [2a:2b]) = (P x) with c in [a:b]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from octify.layout.channels import DENSE, Ids, Refusal
from octify.nn.assign import assigned
from octify.nn.functional import octave_axes
from octify.ops.base import Op
from octify.ops.channel_moves import taken
from octify.ops.emitter import Emitter, Value
from octify.ops.indexing import items_of
from octify.ops.walk import Walk


@dataclass(frozen=True, eq=False)
class _Target:
    """Channels and windows of a map that are assigned."""

    channels: Ids
    windows: tuple[slice, ...]

    @property
    def is_whole(self) -> bool:
        """Return whether the map is assigned at every position."""
        return all(window == slice(None) for window in self.windows)


def _target(index: Any, shape: Sequence[int]) -> _Target | str:
    """Channels and windows that ``index`` names of a map of ``shape``, or why they cannot be named."""
    items = items_of(index, len(shape))
    if len(items) != len(shape) or any(item is None for item in items):
        return "it assigns with new dimensions"
    batch, channels, *windows = items
    if not (isinstance(batch, slice) and batch == slice(None)):
        return "it assigns to samples of the batch"
    if not all(isinstance(window, slice) for window in windows):
        return "it assigns to single positions"
    parts = [channels] if isinstance(channels, slice) else []
    ends = [end for part in (*parts, *windows) for end in (part.start, part.stop, part.step)]
    if not all(end is None or isinstance(end, int) for end in ends):
        return "it assigns at computed places"
    if isinstance(channels, list) and all(isinstance(c, int) for c in channels):
        if len(set(channels)) < len(channels):
            return "it assigns to a channel twice"
    elif not isinstance(channels, (slice, int)):
        return "it assigns at computed places"
    chosen = np.atleast_1d(np.arange(shape[1])[channels])
    return _Target(chosen, tuple(windows))


def _is_number(walk: Walk | Emitter, value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, fx.Node) and walk.traced.shape(value) == ())


def _in_blocks(windows: Sequence[slice]) -> bool:
    """Return whether windows consist of whole blocks of two at any size of the map."""
    halved = octave_axes(len(windows))
    ends = [(w.start or 0, w.stop, w.step) for w, half in zip(windows, halved, strict=True) if half]
    return all(
        step in (None, 1)
        and start >= 0
        and start % 2 == 0
        and (stop is None or (stop >= 0 and stop % 2 == 0))
        for start, stop, step in ends
    )


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    x, index, value = node.args
    assert isinstance(x, fx.Node)
    ids = walk.ids(x)
    coupled = any(map(walk.coupled, node.all_input_nodes))
    if ids is None or not coupled:
        return Refusal("it is assigned to a value without channels") if coupled else walk.dense(node)
    target = _target(index, walk.shape(x))
    if isinstance(target, str):
        return Refusal(target)
    if _is_number(walk, value):
        return ids if _in_blocks(target.windows) else Refusal("it assigns to parts of blocks of two")
    if not (isinstance(value, fx.Node) and target.is_whole):
        return Refusal("it assigns a map to a window of another")
    if walk.traced.shape(value) is None or any(
        a != (b[0], len(target.channels), *b[2:]) for a, b in _shapes(walk, value, x)
    ):
        return Refusal("it assigns a value that is spread over positions or channels")
    own = walk.ids(value)
    result = ids.copy()
    result[target.channels] = DENSE if own is None else own
    return result


def _shapes(walk: Walk, a: fx.Node, b: fx.Node) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of two values at the example inputs, and at larger ones where these can be run."""
    return list(zip(walk.traced.shapes(a), walk.traced.shapes(b), strict=False))


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    x, index, value = node.args
    assert isinstance(x, fx.Node)
    mask = emitter.mask(node)
    target = _target(index, emitter.shape(x))
    assert not isinstance(target, str)
    if _is_number(emitter, value):
        return _number(emitter, emitter.value(x), target, value)
    assert isinstance(value, fx.Node)
    if mask is None:
        return Value(emitter.copy(node))
    base, other = emitter.value(x), emitter.value(value)
    masks = [
        np.zeros(emitter.shape(n)[1], bool) if v.mask is None else v.mask
        for n, v in ((x, base), (value, other))
    ]
    whole = Value(
        _joined(emitter, base.high, other.high),
        _joined(emitter, base.low, other.low),
        np.concatenate(masks),
    )
    source = np.arange(len(masks[0]))
    source[target.channels] = len(source) + np.arange(len(target.channels))
    return taken(emitter, whole, source)


def _joined(emitter: Emitter, a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
    return (a or b) if a is None or b is None else emitter.function(torch.cat, [a, b], 1)


def _number(emitter: Emitter, value: Value, target: _Target, number: Any) -> Value:
    """``number`` assigned in each branch of an octave value."""
    assert value.mask is not None
    operand = emitter.dense(number) if isinstance(number, fx.Node) else number
    halves = [
        slice((w.start or 0) // 2 or None, None if w.stop is None else w.stop // 2) if half else w
        for w, half in zip(target.windows, octave_axes(len(target.windows)), strict=True)
    ]

    def branch(part: fx.Node | None, chosen: Any, windows: Sequence[slice]) -> fx.Node | None:
        places = np.flatnonzero(np.isin(np.flatnonzero(chosen), target.channels))
        if part is None or not len(places):
            return part
        first, last = int(places[0]), int(places[-1]) + 1
        row = slice(first, last) if last - first == len(places) else [int(c) for c in places]
        return emitter.function(assigned, part, (slice(None), row, *windows), operand)

    return Value(
        branch(value.high, ~value.mask, target.windows), branch(value.low, value.mask, halves), value.mask
    )


OPS = (Op("assignment", _layout, _emit, functions=(assigned,)),)
