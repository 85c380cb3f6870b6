"""Padding: of space, by any mode, and of channels by constants.

A padding that only convolutions read is made part of them, which costs nothing and keeps octave
channels on one grid: an odd amount would shift the pairs, and projecting the padded map would blur
twice. Such a padding is dense to the layout, and its convolutions look through it. Any other
padding acts per branch (``octify.nn.padding``).

Padded channels get ids of their own, without a convolution that decides about them: they are low
where the graph ties them to low ones (a shortcut with more channels), since zeros are whatever one
wants them to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import fx, nn

from octify.layout.channels import Ids, Refusal
from octify.nn.padded import Pads
from octify.nn.padding import octave_pad, pad_channels
from octify.ops.base import Op, operand
from octify.ops.effective_conv import Form, form_of, join_pads, pads_of
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk
from octify.trace import Traced
from octify.trace.attached import attached

Padding = tuple[Pads, str]
"""Pads of every axis, and the mode as ``nn.Conv*d`` names it."""

_MODULES: dict[str, str] = {
    "ZeroPad": "constant",
    "ConstantPad": "constant",
    "ReflectionPad": "reflect",
    "ReplicationPad": "replicate",
    "CircularPad": "circular",
}
_PAD_MODULES = tuple(
    getattr(nn, f"{name}{dims}d") for name in _MODULES for dims in (1, 2, 3) if hasattr(nn, f"{name}{dims}d")
)


@dataclass(frozen=True)
class _Arguments:
    """A padding's arguments. Amounts may be nodes of the graph."""

    amounts: tuple[Any, ...]
    mode: str
    value: Any

    @property
    def numbers(self) -> list[int] | None:
        """The amounts, if they are numbers."""
        return [int(n) for n in self.amounts] if all(isinstance(n, int) for n in self.amounts) else None


def _arguments(traced: Traced, node: fx.Node) -> _Arguments:
    module = traced.submodule(node)
    if module is None:
        amounts, mode = operand(node, 1, "pad"), operand(node, 2, "mode") or "constant"
        return _Arguments(
            tuple(amounts) if isinstance(amounts, (list, tuple)) else (None,), mode, operand(node, 3, "value")
        )
    kind = next(
        mode
        for name, mode in _MODULES.items()
        if any(b.__name__.startswith(name) for b in type(module).__mro__)
    )
    amounts = module.padding
    dims = len(traced.shape(operand(node)) or ()) - 2
    each = (amounts,) * (2 * dims) if isinstance(amounts, int) else tuple(amounts)  # type: ignore[arg-type]
    return _Arguments(each, kind, getattr(module, "value", None))


def _is_pad(traced: Traced, node: object) -> bool:
    if not isinstance(node, fx.Node):
        return False
    return (node.op == "call_function" and node.target is F.pad) or isinstance(
        traced.submodule(node), _PAD_MODULES
    )


def _foldable(traced: Traced, node: fx.Node) -> Padding | None:
    """The padding of ``node`` if every reader is a convolution that can take it over."""
    arguments, shape = _arguments(traced, node), traced.shape(node)
    numbers = arguments.numbers
    if shape is None or numbers is None or (arguments.mode == "constant" and arguments.value):
        return None
    pads = pads_of(numbers, len(shape) - 2)
    if pads is None or not any(map(any, pads)):
        return None
    padding = (pads, "zeros" if arguments.mode == "constant" else arguments.mode)
    return padding if all(_takes(traced, user, node, padding) for user in node.users) else None


def _takes(traced: Traced, user: fx.Node, pad: fx.Node, padding: Padding) -> bool:
    conv, shape = traced.submodule(user), traced.shape(pad)
    if any(m is not None and attached(m) for m in (conv, traced.submodule(pad))):
        return False
    if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or operand(user) is not pad or shape is None:
        return False
    form = form_of(conv, shape)
    if not isinstance(form, Form) or form.same:
        return False
    return join_pads(padding, (form.pads, form.mode)) is not None


def through_padding(traced: Traced, node: fx.Node) -> tuple[fx.Node, Padding | None]:
    """Input of a convolution: its operand, or the operand of a padding that it takes over."""
    source = operand(node)
    assert isinstance(source, fx.Node)
    padding = _foldable(traced, source) if _is_pad(traced, source) else None
    return (source, None) if padding is None else (operand(source), padding)


def _channel_ends(arguments: _Arguments, rank: int) -> tuple[int, int] | None:
    """Channels added in front and behind; None for a padding that has no rule."""
    spatial = 2 * (rank - 2)
    rest = arguments.amounts[spatial:]
    if not all(isinstance(n, int) for n in rest) or len(rest) > 2:
        return (0, 0) if not any(rest) else None
    ends = (*rest, 0, 0)[:2]
    return (ends[0], ends[1]) if min(ends) >= 0 and (arguments.mode == "constant" or not any(ends)) else None


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    source = operand(node)
    ids = walk.ids(source)
    if ids is None:
        return walk.dense(node)
    arguments = _arguments(walk.traced, node)
    if None in arguments.amounts:
        return Refusal("its amounts are not a list")
    ends = _channel_ends(arguments, len(walk.shape(source)))
    if ends is None:
        return Refusal("it pads or crops channels otherwise than by constants")
    if isinstance(arguments.value, fx.Node):
        return Refusal("it pads with a computed value")
    if _foldable(walk.traced, node) is not None:
        return walk.dense(node)
    front, back = ends
    return np.concatenate([walk.free(front), ids, walk.free(back)]) if any(ends) else ids


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    source = operand(node)
    mask = emitter.mask(node)
    if mask is None:
        if _foldable(emitter.traced, node) is not None:
            # Its convolutions read the value from here; the dense copy is for those left as they are.
            emitter.parts[node.name] = [emitter.value(source)]
        return Value(emitter.copy(node))
    arguments = _arguments(emitter.traced, node)
    shape = emitter.shape(source)
    front, back = _channel_ends(arguments, len(shape)) or (0, 0)
    inner = mask[front : len(mask) - back]
    x = emitter.as_mask(source, inner if inner.any() else None)
    spatial = arguments.amounts[: 2 * (len(shape) - 2)]
    if any(spatial):
        amounts = fx.map_arg(list(spatial), emitter.dense)
        padded = emitter.function(
            octave_pad, x.high, x.low, amounts, arguments.mode, arguments.value, emitter.plan.kernels
        )
        x = emitter.pair(padded, x.mask)
    if not front and not back:
        return Value(x.high, x.low, mask)
    low = (int(mask[:front].sum()), int(mask[len(mask) - back :].sum()))
    high = (front - low[0], back - low[1])
    called = emitter.function(pad_channels, x.high, x.low, high, low, float(arguments.value or 0))
    return emitter.pair(called, mask)


OPS = (Op("padding", _layout, _emit, modules=_PAD_MODULES, functions=(F.pad,)),)
