"""Layers that follow a convolution before information is lost.

    act(scale * norm(conv(x)) + shift + skips)

A BatchNorm, fixed scales and shifts (layer scale, a factor, a BatchNorm that others use too), the
other operands of residual additions, and the activation behind them. Each may be missing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from octify.calibrate.fit.activation import Activation, Slopes
from octify.calibrate.fit.affine import Affine
from octify.calibrate.streams.nodes import elementwise, inner_activation, only_user
from octify.layout.roles import map_shape, sizes
from octify.nn import OctaveChannelwise
from octify.ops.emitter import Value
from octify.passes.rewrite import Rewritten
from octify.trace import Traced
from octify.trace.aliases import is_identity
from octify.trace.batchnorm import is_affine_norm
from octify.trace.constants import constant

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_SUBTRACTIONS = (operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")
_QUOTIENTS = (operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide, "div", "div_")


@dataclass(frozen=True)
class Skip:
    """The other operand of a residual addition: the original's node, the converted model's branches."""

    original: fx.Node
    value: Value


@dataclass(frozen=True)
class Following:
    """Layers that follow one call of a convolution.

    end:
        The original's node whose value comes before the activation; ``lift`` is what that value still
        lacks, where a BatchNorm has its activation inside.
    norm:
        The original's BatchNorm, ``norm_high`` and ``norm_low`` the converted ones; None if there is
        none, or if it is not this convolution's alone.
    fixed:
        Layers behind the norm that stay as they are.
    max_pool:
        The max pool that alone reads the activation, or None.
    """

    end: fx.Node
    lift: Affine | None
    norm: nn.Module | None
    norm_high: nn.Module | None
    norm_low: nn.Module | None
    fixed: Affine | None
    skips: tuple[Skip, ...]
    activation: Activation | Slopes | None
    max_pool: nn.Module | None = None


class FollowingWalk:
    """Follows the only readers of a convolution's output.

    Parameters
    ----------
    place:
        Place of every original node in the order of repair.
    now:
        The place at which the convolution is fitted: a skip must be known before.
    """

    def __init__(self, traced: Traced, rewritten: Rewritten, place: Mapping[fx.Node, int], now: int) -> None:
        self.traced, self.rewritten = traced, rewritten
        self.place, self.now = place, now

    def follow(self, node: fx.Node, calls: int) -> Following:
        """Layers that follow ``node``. A BatchNorm that is called more than ``calls`` times is fixed."""
        end, skips = node, list[Skip]()
        norm: nn.Module | None = None
        parts: tuple[nn.Module | None, nn.Module | None] = (None, None)
        fixed: Affine | None = None
        lift: Affine | None = None
        act: Activation | Slopes | None = None
        pooled: nn.Module | None = None
        while act is None and (user := only_user(end)) is not None and self._alike(node, user):
            module = self.traced.submodule(user)
            if self._does_nothing(end, user):
                end = user
            elif (skip := self._skip(user, end)) is not None:
                skips.append(skip)
                end = user
            elif not skips and module is not None and is_affine_norm(module):
                affine = Affine.of_norm(module)
                inner = inner_activation(module)
                if norm is None and fixed is None and len(self.traced.calls(str(user.target))) <= calls:
                    norm, parts = module, self._parts(user)
                else:
                    fixed = affine.after(fixed)
                if inner is not None:
                    lift, act, pooled = affine, _tabulated(inner), self._max_pool(user)
                    break
                end = user
            elif not skips and (affine_or_none := self._constant(user, end)) is not None:
                fixed = affine_or_none.after(fixed)
                end = user
            else:
                act = activation_of(self.traced, user)
                if act is None or not act.identity:
                    pooled = None if act is None else self._max_pool(user)
                    break
                end, act = user, None
        return Following(end, lift, norm, *parts, fixed, tuple(skips), act, pooled)

    def _max_pool(self, activated: fx.Node) -> nn.Module | None:
        user = only_user(activated)
        module = None if user is None else self.traced.submodule(user)
        return module if isinstance(module, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)) else None

    def _alike(self, node: fx.Node, user: fx.Node) -> bool:
        """Return whether ``user`` computes a map of the same size, with the same low channels."""
        if user.op == "output" or self.traced.shape(user) is None:
            return False
        mine, its = (self.rewritten.resolved.mask(n.name) for n in (node, user))
        if (mine is None) != (its is None) or not np.array_equal(mine, its):  # type: ignore[arg-type]
            return False
        return self._map_shape(node) == self._map_shape(user)

    def roles(self, node: fx.Node) -> str:
        """Roles of the dimensions of a node's value."""
        return self.rewritten.resolved.layout.roles(node.name, self.traced.shape(node) or ())

    def _map_shape(self, node: fx.Node) -> tuple[int, ...] | None:
        shape, roles = self.traced.shape(node), self.roles(node)
        return map_shape(roles, shape) if shape is not None and "N" in roles else None

    def _does_nothing(self, before: fx.Node, user: fx.Node) -> bool:
        if is_identity(self.traced.submodule(user)):
            return True
        these, those = self.rewritten.values[before.name], self.rewritten.values[user.name]
        return these.octave and these.high is those.high and these.low is those.low  # moved dimensions

    def _parts(self, norm: fx.Node) -> tuple[nn.Module | None, nn.Module | None]:
        module = self.rewritten.module.get_submodule(str(norm.target))
        return (module.high, module.low) if isinstance(module, OctaveChannelwise) else (module, None)

    def _skip(self, add: fx.Node, branch: fx.Node) -> Skip | None:
        """The operand added to ``branch``, if it is a map of the same size that is repaired before."""
        if add.target not in _ADDITIONS or len(add.args) < 2 or add.kwargs:
            return None
        index = 1 if add.args[0] is branch else 0
        other = add.args[index]
        if not isinstance(other, fx.Node) or other is branch or self.place[other] > self.now:
            return None
        shapes = {self.traced.shape(n) for n in (other, add, branch)}
        if len(shapes) > 1 or other.op == "get_attr":
            return None
        sums = self.rewritten.values[add.name]

        def operand(node: fx.Node | None) -> fx.Node | None:
            chosen = None if node is None else node.args[index]
            return chosen if isinstance(chosen, fx.Node) else None

        return Skip(other, Value(operand(sums.high), operand(sums.low), sums.mask))

    def _constant(self, user: fx.Node, branch: fx.Node) -> Affine | None:
        """The affine map per channel that arithmetic with a constant is; None if it is none."""
        if user.op not in ("call_function", "call_method") or len(user.args) < 2 or user.kwargs:
            return None
        first = user.args[0] is branch
        other = user.args[1] if first else user.args[0]
        if other is branch:
            return None
        value = self._per_channel(other, user)
        if value is None:
            return None
        one, zero = torch.ones_like(value), torch.zeros_like(value)
        if user.target in _PRODUCTS:
            return Affine(value, zero)
        if user.target in _ADDITIONS:
            return Affine(one, value)
        if user.target in _SUBTRACTIONS:
            return Affine(one, -value) if first else Affine(-one, value)
        return Affine(1 / value, zero) if user.target in _QUOTIENTS and first else None

    def _per_channel(self, argument: Any, user: fx.Node) -> Tensor | None:
        """A constant operand of ``user`` as one number for each channel (C,), if it is that."""
        try:
            operand = constant(self.traced.module, argument, {})
        except LookupError:
            return None
        shape, roles = self.traced.shape(user) or (), self.roles(user)
        if not isinstance(operand, (int, float, Tensor)):
            return None
        value = torch.as_tensor(operand, dtype=torch.float32).detach().cpu()
        if value.ndim > len(shape) or not bool(torch.isfinite(value).all()):
            return None
        value = value.reshape((1,) * (len(shape) - value.ndim) + tuple(value.shape))
        if any(n != 1 for n, role in zip(value.shape, roles, strict=True) if role != "C"):
            return None
        channels = sizes(roles, shape, "C")
        return value.reshape(sizes(roles, value.shape, "C")).expand(channels).flatten()


def activation_of(traced: Traced, node: fx.Node) -> Activation | Slopes | None:
    """The activation that ``node`` applies; None if it is none."""
    module = traced.submodule(node)
    if isinstance(module, nn.PReLU):
        return _tabulated(module)
    if node.target in (F.prelu, torch.prelu, "prelu"):
        try:
            weight = constant(
                traced.module, node.args[1] if len(node.args) > 1 else node.kwargs["weight"], {}
            )
        except (LookupError, KeyError):
            return None
        return Slopes(weight.detach().flatten()) if isinstance(weight, Tensor) else None
    function = elementwise(traced, node)
    return None if function is None else Activation.of(function)


def _tabulated(function: Callable[[Tensor], Tensor]) -> Activation | Slopes | None:
    return Slopes(function.weight.detach()) if isinstance(function, nn.PReLU) else Activation.of(function)
