"""Elementwise operations of one operand: ``f(U x) = U f(x)``, so each branch on its own."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from octify.compat import native
from octify.layout.channels import DENSE, Ids, Mask, Refusal
from octify.layout.roles import View
from octify.ops.arithmetic import picked
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.softmax import never, refuse_softmax
from octify.ops.walk import Walk
from octify.trace.vendors import DROPOUT_FUNCTIONS, DROPOUTS

_MODULES: tuple[type[nn.Module] | str, ...] = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.RReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
    # Dropout of any kind is the identity in eval mode; in training each branch draws its own.
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    *DROPOUTS,
)

# Looked up by name: not every version of PyTorch has every one.
_FUNCTIONAL = """
    alpha_dropout celu celu_ dropout dropout1d dropout2d dropout3d elu elu_ feature_alpha_dropout gelu
    hardshrink hardsigmoid hardswish hardtanh hardtanh_ leaky_relu leaky_relu_ logsigmoid mish relu
    relu6 relu_ rrelu rrelu_ selu selu_ sigmoid silu softplus softshrink softsign tanh tanhshrink
    threshold threshold_
"""
_TORCH = """
    abs absolute arctan asinh atan celu celu_ ceil clamp clamp_ clamp_max clamp_min clip clone cos
    dropout empty_like erf exp exp2 exp_ expm1 floor full_like hardshrink log log10 log1p log2 nan_to_num
    neg negative ones_like positive reciprocal relu relu_ round rrelu rsqrt selu selu_ sigmoid sigmoid_
    sign sin sinh sqrt square tan tanh tanh_ threshold trunc zeros_like
"""
_TENSOR = """
    abs abs_ atan ceil clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clip clip_ clone
    contiguous cos detach double erf exp exp_ expm1 float floor half hardshrink log log1p nan_to_num neg
    neg_ negative reciprocal relu relu_ round rsqrt rsqrt_ sigmoid sigmoid_ sign sin sqrt sqrt_ square
    square_ tan tanh tanh_ to type type_as
"""


def _named(owner: Any, names: str) -> tuple[Any, ...]:
    return tuple(getattr(owner, name) for name in names.split() if hasattr(owner, name))


_FUNCTIONS = (
    *_named(F, _FUNCTIONAL),
    *_named(torch, _TORCH),
    *native("hardtanh", "leaky_relu", "softplus"),
    operator.abs,
    operator.neg,
    operator.pos,
    *DROPOUT_FUNCTIONS,
)

_METHODS = tuple(_TENSOR.split())
# Methods that ask a second tensor for its type or device only.
_LIKE = ("to", "type_as")


def _others(node: fx.Node, source: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if n is not source]


def _layout(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    source = operand(node)
    maps = [n for n in _others(node, source) if math.prod(walk.traced.shape(n) or ()) != 1]
    if maps and node.target not in _LIKE and any(map(walk.coupled, node.all_input_nodes)):
        return Refusal("its settings differ from position to position")
    return walk.view(source)


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    source = operand(node)
    if node.target not in _LIKE:
        return emitter.per_branch(node, source)

    def branch(part: fx.Node) -> fx.Node:
        return emitter.copy(node, lambda n: part if n is source else emitter.any_branch(n))

    return emitter.value(source).each(branch)


# The first half of the channels times the sigmoid of the second.


def _layout_glu(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    source = operand(node)
    ids = walk.ids(source)
    if ids is None or not bool((ids != DENSE).any()):
        return walk.dense(node)
    if _glu_dim(walk, node) % len(walk.shape(source)) != 1:
        return Refusal("it halves another dimension than channels")
    value, gate = np.split(ids, 2)
    if not np.array_equal(value == DENSE, gate == DENSE):
        return Refusal("a channel and its gate cannot have one resolution")
    return walk.couple(value, gate)


def _glu_dim(walk: Walk, node: fx.Node) -> int:
    module = walk.traced.submodule(node)
    dim = module.dim if isinstance(module, nn.GLU) else operand(node, 1, "dim")
    return -1 if dim is None else int(dim)


def _emit_glu(emitter: Emitter, node: fx.Node) -> Value:
    # A channel and its gate have one level, so each branch is its channels, then their gates.
    branches = emitter.per_branch(node, operand(node))
    return Value(branches.high, branches.low, emitter.mask(node))


# One slope, or one slope for each channel, given as a tensor (C,).


def _layout_prelu(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    return walk.ids(operand(node))


def _emit_prelu(emitter: Emitter, node: fx.Node) -> Value:
    source, slopes = operand(node), operand(node, 1, "weight")
    x = emitter.value(source)
    if emitter.shape(slopes) in ((), (1,)) or x.mask is None:
        return emitter.per_branch(node, source)
    weight = emitter.dense(slopes)

    def branch(part: fx.Node | None, chosen: Mask) -> fx.Node | None:
        return part and emitter.function(F.prelu, part, picked(emitter, slopes, weight, chosen, 0))

    return Value(branch(x.high, ~x.mask), branch(x.low, x.mask), x.mask)


OPS = (
    Op("elementwise", _layout, _emit, modules=_MODULES, functions=_FUNCTIONS, methods=_METHODS, views=True),
    Op("gated linear unit", _layout_glu, _emit_glu, modules=(nn.GLU,), functions=(F.glu,)),
    Op(
        "PReLU of given slopes",
        _layout_prelu,
        _emit_prelu,
        functions=(F.prelu, torch.prelu),
        methods=("prelu",),
    ),
    Op(
        "softmax",
        refuse_softmax,
        never,
        modules=(nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin),
        functions=(F.softmax, F.log_softmax, F.softmin, torch.softmax, torch.log_softmax),
        methods=("softmax", "log_softmax"),
    ),
)
