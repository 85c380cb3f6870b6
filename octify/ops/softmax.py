"""Operations across slices: along one of several channel dimensions.

A selective kernel stacks maps to (N, slices, C, *size), weighs them and adds them up. The channels
of the slices are tied, so every branch is a stack of its own, and whatever is done across the
slices at every position is done on each branch (``octify.nn.slices``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from octify.layout.channels import DENSE, Ids, Mask, Refusal
from octify.layout.roles import View, sizes
from octify.nn.slices import slices_softmax
from octify.ops.base import Op, operand
from octify.ops.channel_moves import taken
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

Axes = tuple[int, ...]


def _slices(ids: Ids, axes: Axes) -> Ids:
    """The slices along ``axes``, one in each row: (slices, channels of a slice)."""
    front: Ids = np.moveaxis(ids, axes, range(len(axes)))
    slices: Ids = front.reshape(math.prod(front.shape[: len(axes)]), -1)
    return slices


def are_mixed(ids: Ids, axes: Axes) -> bool:
    """Return whether some slice has a channel that can be low where another's is dense.

    What is not linear across such slices is not constant on blocks: ``P f(U x, s)`` is not ``f(x, P s)``.
    """
    slices = _slices(ids, axes) == DENSE
    return bool((slices != slices[0]).any())


MIXED = "some of its slices are dense, and it is not linear across them"


def tied(walk: Walk, ids: Ids, axes: Axes) -> Ids:
    """Ids of a slice, with ``axes`` of length one, the channels of all slices tied.

    A slice that is dense where others are not takes their ids: it will be split.
    """
    slices = _slices(ids, axes)
    result: Ids = slices[0]
    for other in slices[1:]:
        result = walk.couple(result, other)
    return result.reshape([1 if axis in axes else n for axis, n in enumerate(ids.shape)])


def across(emitter: Emitter, source: fx.Node, axes: Axes, apply: Callable[..., Any], *settings: Any) -> Value:
    """``apply(branch, slices, *settings)`` on each branch of a value, its slices one after another.

    The result is a map of the channels of one slice.
    """
    x, order = _stacked(emitter, source, axes)
    result = x.each(lambda branch: emitter.function(apply, branch, len(order), *settings))
    return Value(result.high, result.low, None if result.mask is None else result.mask[: order.shape[1]])


def _stacked(emitter: Emitter, source: fx.Node, axes: Axes) -> tuple[Value, Ids]:
    """A value with its slices along ``axes`` one after another, and where its channels come from."""
    channels = sizes(emitter.roles(source), emitter.shape(source), "C")
    order = _slices(np.arange(math.prod(channels)).reshape(channels), axes)
    mask = emitter.value(source).mask
    assert mask is not None
    alike: Mask = np.broadcast_to(mask.reshape(channels).any(axes, keepdims=True), channels).ravel()
    return taken(emitter, emitter.as_mask(source, alike), order.ravel()), order


def _softmax_dim(walk: Walk | Emitter, node: fx.Node) -> Any:
    module = walk.traced.submodule(node)
    return module.dim if isinstance(module, nn.Softmax) else operand(node, 1, "dim")


def _layout_softmax(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    source, dim = operand(node), _softmax_dim(walk, node)
    view = walk.view(source)
    if view is None or not walk.coupled(source):
        return walk.dense(node)
    if not isinstance(dim, int) or view.roles[dim] != "C" or view.ids.ndim < 2:
        return Refusal("softmax mixes all channels or positions")
    axis = view.roles[: dim % len(view.roles)].count("C")
    if are_mixed(view.ids, (axis,)):
        return Refusal(MIXED)
    return View(view.roles, np.broadcast_to(tied(walk, view.ids, (axis,)), view.ids.shape))


def _emit_softmax(emitter: Emitter, node: fx.Node) -> Value:
    source, dim = operand(node), _softmax_dim(emitter, node)
    roles = emitter.roles(source)
    x, order = _stacked(emitter, source, (roles[: dim % len(roles)].count("C"),))
    result = x.each(lambda branch: emitter.function(slices_softmax, branch, len(order)))
    return taken(emitter, result, np.argsort(order.ravel()))


OPS = (
    Op(
        "softmax across slices",
        _layout_softmax,
        _emit_softmax,
        modules=(nn.Softmax,),
        functions=(F.softmax, torch.softmax),
        methods=("softmax",),
        views=True,
    ),
)


def refuse_softmax(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    source = operand(node)
    ids = walk.ids(source)
    if ids is None or not bool((ids != DENSE).any()):
        return walk.dense(node)
    return Refusal("a softmax normalises over values of both resolutions")


def never(emitter: Emitter, node: fx.Node) -> Value:
    raise AssertionError(f"{node.name} was refused")
