"""Pointwise operations of two or three values: arithmetic, powers, maxima.

Octave values of the same layout combine per branch, whatever the operation. So do numbers and
values of one sample per channel, (N, C, 1, 1). An operand that differs inside a 2x2 block is
pooled for the low branch, which is exact where the operation is affine in it while the others
are constant on blocks, as octave values are::

    P(U x + s) = x + P(s)        P(U x * s) = x * P(s)        P(s / U x) = P(s) / x

Such an operand is a dense map of the result's size (it is split), a spatial gate of one channel
(N, 1, H, W), or a strip (N, C, H, 1) or (N, C, 1, W) as coordinate attention makes, for which
``P`` pools along the strip. The channels of all may be in other dimensions (``octify.layout.roles``).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from octify.layout.channels import DENSE, Ids, Mask, Refusal
from octify.layout.roles import View, sizes, standard_roles
from octify.nn.functional import octave_axes, pool
from octify.nn.views import to_map
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk

Operands = tuple[str, ...]
_TWO: Operands = ("input", "other")


@dataclass(frozen=True)
class Pointwise:
    """A pointwise function; ``affine`` lists the operands it is affine in while the others are constant.

    It is written out of place whatever the model does: a branch may be a view of a dense value
    that others read.
    """

    function: Callable[..., Any]
    operands: Operands
    affine: tuple[int, ...] = ()


_ADD, _SUB = Pointwise(torch.add, _TWO, (0, 1)), Pointwise(torch.sub, _TWO, (0, 1))
_MUL, _DIV = Pointwise(torch.mul, _TWO, (0, 1)), Pointwise(torch.div, _TWO, (0,))
_POW = Pointwise(torch.pow, ("input", "exponent"))
_MAX, _MIN = Pointwise(torch.maximum, _TWO), Pointwise(torch.minimum, _TWO)
_ADDCMUL = Pointwise(torch.addcmul, ("input", "tensor1", "tensor2"), (0,))
_ADDCDIV = Pointwise(torch.addcdiv, ("input", "tensor1", "tensor2"), (0,))
_LERP = Pointwise(torch.lerp, ("input", "end", "weight"), (0, 1))


def _python(function: Callable[..., Any], like: Pointwise) -> Pointwise:
    """The same with a Python operator, which also takes a number first."""
    return Pointwise(function, like.operands, like.affine)


_FUNCTIONS: dict[Callable[..., Any], Pointwise] = {
    operator.add: _python(operator.add, _ADD),
    operator.sub: _python(operator.sub, _SUB),
    operator.mul: _python(operator.mul, _MUL),
    operator.truediv: _python(operator.truediv, _DIV),
    operator.pow: _python(operator.pow, _POW),
    operator.iadd: _python(operator.add, _ADD),
    operator.isub: _python(operator.sub, _SUB),
    operator.imul: _python(operator.mul, _MUL),
    operator.itruediv: _python(operator.truediv, _DIV),
    operator.ipow: _python(operator.pow, _POW),
    torch.add: _ADD,
    torch.sub: _SUB,
    torch.subtract: _SUB,
    torch.rsub: Pointwise(torch.rsub, _TWO, (0, 1)),
    torch.mul: _MUL,
    torch.multiply: _MUL,
    torch.div: _DIV,
    torch.divide: _DIV,
    torch.true_divide: _DIV,
    torch.pow: _POW,
    torch.maximum: _MAX,
    torch.minimum: _MIN,
    # torch.max and torch.min of two tensors come here from the reductions.
    torch.max: _MAX,
    torch.min: _MIN,
    torch.addcmul: _ADDCMUL,
    torch.addcdiv: _ADDCDIV,
    torch.lerp: _LERP,
}
_METHODS: dict[str, Pointwise] = {
    **dict.fromkeys(("add", "add_"), _ADD),
    **dict.fromkeys(("sub", "sub_", "subtract"), _SUB),
    **dict.fromkeys(("mul", "mul_", "multiply"), _MUL),
    **dict.fromkeys(("div", "div_", "divide", "true_divide"), _DIV),
    **dict.fromkeys(("pow", "pow_"), _POW),
    **dict.fromkeys(("maximum", "max"), _MAX),
    **dict.fromkeys(("minimum", "min"), _MIN),
    **dict.fromkeys(("addcmul", "addcmul_"), _ADDCMUL),
    **dict.fromkeys(("addcdiv", "addcdiv_"), _ADDCDIV),
    **dict.fromkeys(("lerp", "lerp_"), _LERP),
}
_BY_REDUCTIONS = (torch.max, torch.min, "max", "min")


def _pointwise(node: fx.Node) -> Pointwise:
    target: Any = node.target
    return _METHODS[target] if node.op == "call_method" else _FUNCTIONS[target]


def _operands(node: fx.Node) -> list[Any]:
    return [operand(node, i, name) for i, name in enumerate(_pointwise(node).operands)]


def _rest(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Further arguments, such as ``alpha`` of ``torch.add``."""
    names = _pointwise(node).operands
    return node.args[len(names) :], {k: v for k, v in node.kwargs.items() if k not in names}


def _shape(walk: Walk | Emitter, node: Any, rank: int) -> tuple[int, ...] | None:
    """Shape of a tensor operand with leading ones up to ``rank``, as broadcasting sees it."""
    shape = walk.traced.shape(node) if isinstance(node, fx.Node) else None
    return None if shape is None else (1,) * (rank - len(shape)) + tuple(shape)


def _varies(walk: Walk | Emitter, node: Any, roles: str) -> bool:
    """Return whether an operand, a map of the result's ``roles``, may differ inside a block at any size."""
    shapes = walk.traced.shapes(node) if isinstance(node, fx.Node) else ()
    if any(len(shape) > len(roles) for shape in shapes):
        return True
    lifted = [(1,) * (len(roles) - len(shape)) + tuple(shape) for shape in shapes]
    halved = octave_axes(roles.count("S"))
    return any(n != 1 for shape in lifted for n, h in zip(sizes(roles, shape, "S"), halved, strict=True) if h)


@dataclass(frozen=True, eq=False)
class _Operand:
    """A tensor operand as the map that the result's roles make of it.

    ids:
        None where it is the same in every channel.
    varies:
        Whether it may differ inside a block.
    """

    position: int
    ids: Ids | None
    size: tuple[int, ...]
    varies: bool


def layout_pointwise(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    """Ids of the result: those of its operands of full size, tied channel by channel."""
    out = walk.traced.shape(node)
    dense = walk.dense(node)
    coupled = [walk.view(n) for n in _operands(node) if isinstance(n, fx.Node) and walk.coupled(n)]
    views = walk.deciding([v for v in coupled if v is not None])
    all_roles = [v.roles for v in views if out is not None and len(v.roles) == len(out)]
    if out is None or dense is None or not all_roles:
        return Refusal("it broadcasts channels over other dimensions") if views else dense
    roles = all_roles[0]
    if len(all_roles) < len(views) or any(other != roles for other in all_roles):
        return Refusal("the channels of its operands are in different dimensions")
    size = sizes(roles, out, "S")
    if not 1 <= len(size) <= 3:
        return Refusal("its values do not have one to three spatial dimensions")
    operands = _operand_layouts(walk, node, roles, out)
    if isinstance(operands, Refusal):
        return operands
    # Where nothing has full size (strips added to each other) each takes part alike.
    parted = [(o.ids, o.size) for o in operands if o.ids is not None]
    whole = [ids for ids, own in parted if own == size] or [ids for ids, _ in parted]
    result = np.full(math.prod(sizes(roles, out, "C")), DENSE)
    for ids in whole:
        result = walk.couple(result, ids)
    for ids, _ in parted:
        both = (ids != DENSE) & (result != DENSE)
        if both.any():
            walk.tie(ids[both], result[both])
    refusal = _refusal(node, operands, result)
    return refusal or View(roles, result.reshape(sizes(roles, out, "C")))


def _operand_layouts(walk: Walk, node: fx.Node, roles: str, out: tuple[int, ...]) -> list[_Operand] | Refusal:
    operands = []
    full = sizes(roles, out, "C")
    for position, n in enumerate(_operands(node)):
        shape = _shape(walk, n, len(out))
        if shape is None:
            continue
        channels, size = sizes(roles, shape, "C"), sizes(roles, shape, "S")
        ids: Ids | None = None
        if channels == full:
            view = walk.view(n)
            same = view is not None and view.roles == roles
            ids = view.flat if same and view is not None else np.full(math.prod(full), DENSE)
        elif any(c != 1 for c in channels):
            return Refusal("an operand broadcasts over some of the channel dimensions")
        operands.append(_Operand(position, ids, size, _varies(walk, n, roles)))
    return operands


def _refusal(node: fx.Node, operands: list[_Operand], result: Ids) -> Refusal | None:
    pointwise = _pointwise(node)
    affine = () if node.kwargs.get("rounding_mode") is not None else pointwise.affine
    for other in operands:
        if other.position in affine or not other.varies:
            continue
        if other.ids is None or bool(((other.ids == DENSE) & (result != DENSE)).any()):
            name = getattr(pointwise.function, "__name__", "it")
            return Refusal(f"{name} with a full-resolution operand does not commute with pooling")
    return None


def emit_pointwise(emitter: Emitter, node: fx.Node) -> Value:
    """The function on the high and on the low parts of its operands."""
    mask = emitter.mask(node)
    if mask is None:  # an operand is octave but the result is not: it was left dense
        return Value(emitter.copy(node))
    roles = emitter.roles(node)
    function = _pointwise(node).function
    args, kwargs = _rest(node)
    sides = [side(emitter, n, mask, roles) for n in _operands(node)]
    high = None if mask.all() else emitter.function(function, *(high for high, _ in sides), *args, **kwargs)
    low = emitter.function(function, *(low for _, low in sides), *args, **kwargs)
    return Value(high, low, mask)


def side(emitter: Emitter, node: Any, mask: Mask, roles: str) -> tuple[Any, Any]:
    """Forms of an operand in the high and in the low branch of a value with ``mask``."""
    shape = _shape(emitter, node, len(roles))
    if shape is None or not emitter.traced.shape(node):
        number = emitter.dense(node) if isinstance(node, fx.Node) else node
        return number, number
    parted = math.prod(sizes(roles, shape, "C")) == len(mask)
    if parted and emitter.shape(node) == shape and node.op != "get_attr":
        value = emitter.as_mask(node, mask, roles)
        return value.high, value.low
    whole = _lifted(emitter, node, shape, roles)
    # A parameter, or a value such as (C, 1, 1) whose channels are not in dimension 1.
    high, low = ((_picked(emitter, node, whole, chosen) if parted else whole) for chosen in (~mask, mask))
    return high, emitter.function(pool, low) if _varies(emitter, node, roles) else low


def _lifted(emitter: Emitter, node: fx.Node, shape: tuple[int, ...], roles: str) -> fx.Node:
    """The dense operand as a map, with leading dimensions of one sample up to the result's rank."""
    whole = emitter.dense(node)
    missing = len(shape) - len(emitter.shape(node))
    if missing:
        whole = emitter.function(operator.getitem, whole, (None,) * missing + (...,))
    return whole if roles == standard_roles(len(roles)) else emitter.function(to_map, whole, roles)


def _picked(emitter: Emitter, node: fx.Node, lifted: fx.Node, chosen: Mask) -> fx.Node | None:
    """The chosen channels of a parameter; not by a module, which a FLOP counter could not hook."""
    return picked(emitter, node, lifted, chosen, 1) if chosen.any() else None


def parted_parameter(emitter: Emitter, parameter: Any, mask: Mask) -> tuple[fx.Node | None, fx.Node | None]:
    """A tensor (C,) parted into its high and its low channels; None for what is not there."""
    if not isinstance(parameter, fx.Node):
        return None, None
    whole = emitter.dense(parameter)
    high, low = (picked(emitter, parameter, whole, part, 0) if part.any() else None for part in (~mask, mask))
    return high, low


def picked(emitter: Emitter, node: fx.Node, source: fx.Node, chosen: Mask, dim: int) -> fx.Node:
    """``source`` (made from ``node``) at the ``chosen`` positions of ``dim``."""
    path = f"octave_index_{node.name}_{len(emitter.modules)}"
    emitter.modules[path] = torch.from_numpy(np.flatnonzero(chosen))
    return emitter.function(torch.index_select, source, dim, emitter.graph.get_attr(path))


OPS = (
    Op(
        "arithmetic",
        layout_pointwise,
        emit_pointwise,
        functions=tuple(f for f in _FUNCTIONS if f not in _BY_REDUCTIONS),
        methods=tuple(m for m in _METHODS if m not in _BY_REDUCTIONS),
        views=True,
    ),
)
