"""Depthwise convolutions without a module that a plan could name: anti-aliasing blurs, ``F.conv2d``.

Each channel is computed from itself, so the layout passes on and there is nothing to decide. The
weight is a constant of the graph: a buffer or parameter, repeated or reshaped at will. A function
that connects channels, or whose weight is computed from the input, is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, fx, nn

from octify.layout.channels import DENSE, Ids, Refusal, indices
from octify.nn.functional import octave_axes
from octify.ops.base import Op, operand
from octify.ops.conv import ONE_SAMPLE, octave_conv, refusal_of
from octify.ops.effective_conv import Form, form_of
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk
from octify.trace import Traced
from octify.trace.constants import constant
from octify.trace.vendors import BLURS

_FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d)
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class _ConvFunction(nn.Module):
    """A convolution function with its constants, as a layer."""

    def __init__(self, function: Any, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.settings = {key: value for key, value in settings.items() if not isinstance(value, Tensor)}
        self.constants = {key: value for key, value in settings.items() if isinstance(value, Tensor)}
        for name, value in self.constants.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(
            x, **{name: getattr(self, name) for name in self.constants}, **self.settings
        )
        return y


def _layer(traced: Traced, node: fx.Node) -> nn.Module | str:
    """The layer that a node is, or why it is none."""
    module = traced.submodule(node)
    if module is not None:
        return module
    arguments = {**dict(zip(_NAMES, node.args, strict=False)), **node.kwargs}
    arguments.pop("input")
    cache: dict[fx.Node, Any] = {}
    try:
        constants = {
            name: fx.map_arg(value, lambda n: constant(traced.module, n, cache))
            for name, value in arguments.items()
        }
    except LookupError:
        return "its weights or settings are computed from its input"
    return _ConvFunction(node.target, constants).eval()


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = walk.ids(operand(node))
    if ids is None or not bool((ids != DENSE).any()):
        return walk.dense(node)
    layer = _layer(walk.traced, node)
    if isinstance(layer, str):
        return Refusal(layer)
    shape = walk.shape(operand(node))
    form = form_of(layer, shape)
    reason = refusal_of(layer, form, None, shape)
    if reason is not None or not isinstance(form, Form):
        return Refusal(reason or "")
    if _moves_a_single_sample(form, shape[2:], walk.shape(node)[2:]):
        return Refusal(ONE_SAMPLE)
    if form.groups != form.in_channels:
        return Refusal("it is a convolution that is not a module, so a plan cannot name it")
    return np.repeat(ids, form.out_channels // form.groups)


def _moves_a_single_sample(form: Form, read: Sequence[int], written: Sequence[int]) -> bool:
    """Return whether an axis of one sample is padded, or was or becomes longer."""
    axes = zip(octave_axes(len(read)), read, written, form.pads, strict=True)
    return any(half and 1 in (n, out) and (n != out or any(pads)) for half, n, out, pads in axes)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    source = operand(node)
    layer = _layer(emitter.traced, node)
    x, mask = emitter.value(source), emitter.mask(node)
    assert isinstance(layer, nn.Module) and x.mask is not None and mask is not None
    low_in, low_out = (indices(m) for m in (x.mask, mask))
    octave = octave_conv(layer, emitter.shape(source), None, low_in, low_out, emitter.plan.kernels)
    path = str(node.target) if node.op == "call_module" else f"octave_{node.name}"
    return emitter.pair(emitter.call(path, octave, x.high, x.low), mask)


OPS = (
    Op(
        "depthwise convolution",
        _layout,
        _emit,
        modules=BLURS,
        functions=_FUNCTIONS,
    ),
)
