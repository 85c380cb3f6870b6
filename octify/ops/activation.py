"""Elementwise operations of one operand: ``f(U x) = U f(x)``, so each branch on its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from octify.emitter import Emitter, Value
from octify.layout import Ids, Refusal, Walk
from octify.ops.base import Op, operand
from octify.views import View

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
    "timm.layers.drop.DropPath",
    "torchvision.ops.stochastic_depth.StochasticDepth",
)

_FUNCTIONS = (
    F.celu,
    F.dropout,
    F.dropout2d,
    F.elu,
    F.gelu,
    F.hardsigmoid,
    F.hardswish,
    F.hardtanh,
    F.leaky_relu,
    F.logsigmoid,
    F.mish,
    F.relu,
    F.relu6,
    F.selu,
    F.sigmoid,
    F.silu,
    F.softplus,
    F.softsign,
    F.tanh,
    torch.abs,
    torch.clamp,
    torch.exp,
    torch.neg,
    torch.relu,
    torch.relu_,
    torch.rsqrt,
    torch.sigmoid,
    torch.sqrt,
    torch.square,
    torch.tanh,
)

_METHODS = (
    "abs",
    "clamp",
    "clamp_",
    "clone",
    "contiguous",
    "detach",
    "exp",
    "float",
    "half",
    "neg",
    "relu",
    "relu_",
    "rsqrt",
    "sigmoid",
    "sigmoid_",
    "sqrt",
    "square",
    "tanh",
    "to",
    "type_as",
)


def _layout(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    return walk.view(operand(node))


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    return emitter.per_branch(node, operand(node))


OPS = (
    Op("elementwise", _layout, _emit, modules=_MODULES, functions=_FUNCTIONS, methods=_METHODS, views=True),
)
