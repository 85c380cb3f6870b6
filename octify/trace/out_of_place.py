"""In-place operations whose operand others may hold, as the operations that make a new tensor.

``octify.trace.inplace`` has made data flow say what is changed: nothing is lost by computing it apart. It is
needed, for a rewritten operation may return its operand where the original returned a copy (pooling a map to
the size it has, say), and an operation in place would then change what others read. Where the operand is new
and nobody else reads it, as behind a convolution, memory is saved as the model saves it.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from octify.compat import ConvNd, NormBase
from octify.nn.assign import assigned
from octify.trace.inplace import changed_by

_NEW = (ConvNd, nn.Linear, NormBase, nn.GroupNorm, nn.LayerNorm)
_ARITHMETIC = frozenset(
    {
        *(operator.add, operator.sub, operator.mul, operator.truediv),
        *(torch.add, torch.sub, torch.mul, torch.div, torch.conv2d, F.conv2d, F.linear, F.batch_norm),
    }
)
_FILLS = {"zero_": 0, "fill_": None, "copy_": None}  # what is assigned to all entries; None: the argument
_METHODS = ("add", "sub", "mul", "div")
_PLACES: tuple[Any, ...] = (torch, F, Tensor)


def put_apart(module: nn.Module, graph: fx.Graph) -> None:
    """Replace operations in ``graph`` that change, in place, a value that may be another's too."""
    for node in graph.nodes:
        operand = changed_by(module, node)
        if operand is None:
            continue
        if node.target in _FILLS or not (len(operand.users) == 1 and _is_new(module, operand)):
            _replace(module, node)


def _is_new(module: nn.Module, node: fx.Node) -> bool:
    """Return whether a value is surely a tensor of its own, in the rewritten graph as well."""
    operand = changed_by(module, node)
    if operand is not None:  # it is its operand
        return len(operand.users) == 1 and _is_new(module, operand)
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _NEW)
    return node.target in (_METHODS if node.op == "call_method" else _ARITHMETIC)


def _replace(module: nn.Module, node: fx.Node) -> None:
    if node.op == "call_module":
        layer: Any = module.get_submodule(str(node.target))
        layer.inplace = False
        return
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if name in _FILLS:
        _assign(node, _FILLS[name])
    elif not name.endswith("_"):
        _unflag(node, target)
    elif node.op == "call_method":
        node.target = name[:-1] if hasattr(Tensor, name[:-1]) else target
    else:
        places = [place for place in _PLACES if getattr(place, name, None) is target]
        node.target = next((getattr(p, name[:-1]) for p in places if hasattr(p, name[:-1])), target)


def _assign(node: fx.Node, value: Any) -> None:
    """Make an assignment of ``x.zero_()``, ``x.fill_(value)`` and ``x.copy_(value)``."""
    rest = [*node.args[1:], *(v for key, v in node.kwargs.items() if key != "non_blocking")]
    if value is None and not rest:
        return
    node.op, node.target = "call_function", assigned
    everywhere: Any = ...
    node.args, node.kwargs = (node.args[0], everywhere, rest[0] if value is None else value), {}


def _unflag(node: fx.Node, target: Any) -> None:
    """Call a function that has a parameter ``inplace`` without it."""
    if "inplace" in node.kwargs:
        node.kwargs = {**node.kwargs, "inplace": False}
        return
    try:
        names = list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return
    if "inplace" in names and names.index("inplace") < len(node.args):
        place = names.index("inplace")
        node.args = (*node.args[:place], False, *node.args[place + 1 :])
