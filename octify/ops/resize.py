"""Interpolation: nearest by whole factors per branch, everything else as ``P R U`` (see nn/resample.py)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_arg

from octify.layout.channels import DENSE, Ids, Refusal
from octify.nn.resample import low_resized, resized
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

_NAMES = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
_DEFAULTS = {"mode": "nearest", "antialias": False}


def _settings(walk: Walk | Emitter, node: fx.Node) -> list[Any]:
    """The arguments of ``torch.nn.functional.interpolate`` behind the input, in its order."""
    module = walk.traced.submodule(node)
    if module is not None:
        arguments = [getattr(module, name, None) for name in _NAMES]
    else:
        arguments = [operand(node, i, name) for i, name in enumerate(_NAMES, start=1)]
    return [_DEFAULTS.get(n) if value is None else value for n, value in zip(_NAMES, arguments, strict=True)]


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = walk.ids(operand(node))
    if ids is None or not bool((ids != DENSE).any()):
        return walk.dense(node)
    size, scale = _settings(walk, node)[:2]
    if size is None and scale is None:
        return Refusal("it resizes to a size that octify does not see")
    return ids


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    x = emitter.value(operand(node))
    settings = map_arg(_settings(emitter, node), emitter.dense)
    high = None if x.high is None else emitter.function(resized, x.high, *settings)
    return Value(high, emitter.function(low_resized, x.low, x.high, emitter.plan.kernels, *settings), x.mask)


OPS = (
    Op(
        "interpolation",
        _layout,
        _emit,
        modules=(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        functions=(F.interpolate, F.upsample),
    ),
)
