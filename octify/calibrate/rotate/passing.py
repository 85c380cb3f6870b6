"""Operations that mixtures of channels pass through: ``f(R x) = R f(x)`` for every matrix R over channels.

They are linear, treat all channels alike and mix none: pooling by means, padding with zeros or with the
value's own samples, interpolation, what moves dimensions, and in eval mode all that is random in training.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from octify.compat import forward_hooks, forward_pre_hooks
from octify.ops.base import operand
from octify.trace import Traced
from octify.trace.aliases import is_identity


@dataclass(frozen=True)
class Channels:
    """Position of a value's channels.

    dim:
        Their dimension.
    flat:
        Spatial size that has been flattened into that dimension, behind the channels.
    """

    dim: int = 1
    flat: tuple[int, ...] = ()


def passed(traced: Traced, node: fx.Node, source: fx.Node, channels: Channels) -> Channels | None:
    """Position of ``source``'s channels in the result of ``node``, its reader; None if they do not pass."""
    if node.op == "call_module":
        module = traced.submodule(node)
        return channels if module is not None and _passes_module(traced, node, module, channels) else None
    rule = _RULES.get(node.target)
    return None if rule is None else rule(_Operation(traced, node, source, channels))


@dataclass(frozen=True)
class _Operation:
    """A function or method, and what is known of its first operand."""

    traced: Traced
    node: fx.Node
    source: fx.Node
    channels: Channels

    @property
    def before(self) -> tuple[int, ...]:
        return self.traced.shape(self.source) or ()

    @property
    def after(self) -> tuple[int, ...]:
        return self.traced.shape(self.node) or ()

    @property
    def behind(self) -> bool:
        """Return whether the channels are in dimension 1, as in a convolution, followed by positions."""
        return self.channels == Channels()


_SPATIAL = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Upsample,
    nn.UpsamplingNearest2d,
    nn.UpsamplingBilinear2d,
    nn.ZeroPad2d,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
)


def _passes_module(traced: Traced, node: fx.Node, module: nn.Module, channels: Channels) -> bool:
    if forward_hooks(module) or forward_pre_hooks(module):
        return False
    if is_identity(module):
        return True
    # A map without its batch dimension has its channels elsewhere.
    rank = len(traced.shape(operand(node)) or ())
    return channels == Channels() and rank >= 3 and type(module) in _SPATIAL and _batched(module, rank)


def _batched(module: nn.Module, rank: int) -> bool:
    digits = [int(c) for c in type(module).__name__ if c.isdigit()]
    return not digits or rank == digits[0] + 2


def _spatial(call: _Operation) -> Channels | None:
    """A function of each channel's positions."""
    axes = [int(c) for c in str(getattr(call.node.target, "__name__", "")) if c.isdigit()]
    if axes and len(call.before) != axes[0] + 2:
        return None  # without a batch dimension the channels are elsewhere
    return call.channels if call.behind and len(call.before) == len(call.after) >= 3 else None


def _anywhere(call: _Operation) -> Channels | None:
    return call.channels if call.node.all_input_nodes == [call.source] else None


def _number(call: _Operation) -> Channels | None:
    """A product with, or a quotient by, what is one number for all channels."""
    others = [a for a in (*call.node.args, *call.node.kwargs.values()) if a is not call.source]
    dividing = call.node.target in _QUOTIENTS and call.node.args[:1] != (call.source,)
    if dividing or len(others) != 1 or call.before != call.after:
        return None
    (other,) = others
    if not isinstance(other, fx.Node):
        return call.channels if isinstance(other, (int, float)) else None
    shape = call.traced.shape(other)
    if shape is None:
        return None  # a computed number may be a tuple, too
    place = call.channels.dim - len(call.before) + len(shape)
    return call.channels if place < 0 or (shape[place] == 1) else None


def _padded(call: _Operation) -> Channels | None:
    widths, mode, value = (operand(call.node, i, n) for i, n in ((1, "pad"), (2, "mode"), (3, "value")))
    spatial = isinstance(widths, (tuple, list)) and len(widths) <= 2 * (len(call.before) - 2)
    if not spatial or (mode not in (None, "constant", "reflect", "replicate", "circular")):
        return None
    return _spatial(call) if value in (None, 0) or mode not in (None, "constant") else None


def _dropped(call: _Operation) -> Channels | None:
    """Dropout as a function: the identity, where it is told that this is no training."""
    place = 3 if call.node.target == torch.dropout else 2
    names = ("train", "training")
    training = next(
        (call.node.kwargs[n] for n in names if n in call.node.kwargs), operand(call.node, place, "")
    )
    return call.channels if training is False else None


def _mean(call: _Operation) -> Channels | None:
    """A mean over positions behind the channels."""
    dims = call.node.kwargs.get("dim", call.node.kwargs.get("axis", operand(call.node, 1, "dim")))
    rank = len(call.before)
    axes = dims if isinstance(dims, (tuple, list)) else (dims,)
    if not call.behind or not all(isinstance(d, int) and d % rank >= 2 for d in axes):
        return None
    return call.channels


def _flattened(call: _Operation) -> Channels | None:
    before, after = call.before, call.after
    if not call.behind or after[:1] != before[:1]:
        return None
    if after == before:
        return call.channels
    if len(before) > 2 and after == (before[0], math.prod(before[1:])):
        return replace(call.channels, flat=before[2:])
    return call.channels if after == (*before[:2], math.prod(before[2:])) else None


def _unit(call: _Operation) -> Channels | None:
    """Dimensions of size 1 behind the channels taken away or added."""
    dim = operand(call.node, 1, "dim")
    rank = max(len(call.before), len(call.after))
    return call.channels if call.behind and isinstance(dim, int) and dim % rank >= 2 else None


def _permuted(call: _Operation) -> Channels | None:
    argument = operand(call.node, 1, "dims")
    dims = argument if isinstance(argument, (tuple, list)) else call.node.args[1:]
    rank = len(call.before)
    if call.channels.flat or len(dims) != rank or not all(isinstance(d, int) for d in dims):
        return None
    places = [d % rank for d in dims if isinstance(d, int)]
    return Channels(places.index(call.channels.dim)) if places[0] == 0 else None


def _transposed(call: _Operation) -> Channels | None:
    axes = [operand(call.node, 1, "dim0"), operand(call.node, 2, "dim1")]
    rank = len(call.before)
    if call.channels.flat or not all(isinstance(d, int) for d in axes):
        return None
    a, b = (int(d) % rank for d in axes)
    return Channels({a: b, b: a}.get(call.channels.dim, call.channels.dim)) if a and b else None


_Rule = Callable[[_Operation], Channels | None]
_QUOTIENTS = (operator.truediv, operator.itruediv, torch.div, torch.true_divide, "div", "div_", "true_divide")
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.interpolate, F.upsample), _spatial),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), _spatial),
    **dict.fromkeys((torch.clone, operator.neg, torch.neg, torch.negative), _anywhere),
    **dict.fromkeys(("clone", "contiguous", "detach", "float", "double", "half", "to", "neg"), _anywhere),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_", *_QUOTIENTS), _number),
    **dict.fromkeys((F.dropout, F.dropout2d, torch.dropout), _dropped),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys((torch.flatten, torch.reshape, "flatten", "reshape", "view"), _flattened),
    **dict.fromkeys((torch.squeeze, torch.unsqueeze, "squeeze", "unsqueeze"), _unit),
    **dict.fromkeys((torch.permute, "permute"), _permuted),
    **dict.fromkeys((torch.transpose, "transpose"), _transposed),
    F.pad: _padded,
}
