"""Nodes of two graphs that have equal values: equal operations on equal inputs, with equal weights.

A converted model is its original up to the first octave convolution, and so is the original in another
basis: what is known of the one need not be computed of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from octify.trace.model import attribute

_OF_EVERY_MODULE = vars(nn.Module()).keys()
_PARTS = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def twins(
    graph: fx.Graph, module: nn.Module, other_graph: fx.Graph, other: nn.Module
) -> dict[fx.Node, fx.Node]:
    """Nodes of ``graph``, run with ``module``, that compute what nodes of the same name of the other do.

    Both in eval mode, and out of place. Nodes that are inputs or parameters are among them.
    """
    by_name = {node.name: node for node in other_graph.nodes}
    inputs, theirs = graph.find_nodes(op="placeholder"), other_graph.find_nodes(op="placeholder")
    same: dict[fx.Node, fx.Node] = dict(zip(inputs, theirs, strict=False))
    alike: dict[str, bool] = {}
    for node in graph.nodes:
        twin = by_name.get(node.name)
        if twin is None or node.op in ("placeholder", "output") or node.op != twin.op:
            continue
        if node.target != twin.target or not _equal((node.args, node.kwargs), (twin.args, twin.kwargs), same):
            continue
        path = str(node.target)
        if node.op in ("call_module", "get_attr"):
            if path not in alike:
                alike[path] = _alike(attribute(module, path), attribute(other, path))
            if not alike[path]:
                continue
        same[node] = twin
    return same


def _equal(a: Any, b: Any, same: Mapping[fx.Node, fx.Node]) -> bool:
    """Return whether arguments are equal, nodes by ``same``."""
    if isinstance(a, fx.Node):
        return same.get(a) is b
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(_equal(x, y, same) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key], same) for key in a)
    if isinstance(a, slice):
        return _equal((a.start, a.stop, a.step), (b.start, b.stop, b.step), same)
    return a is b or (isinstance(a, _PLAIN) and bool(a == b))


def _alike(a: Any, b: Any) -> bool:
    """Return whether two modules or tensors compute the same; False where that cannot be told."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if not isinstance(a, nn.Module) or any(getattr(m, name) for m in (a, b) for name in _HOOKS):
        return False
    mine, its = ({k: v for k, v in vars(m).items() if k not in _OF_EVERY_MODULE} for m in (a, b))
    return _equal(mine, its, {}) and all(_same_parts(vars(a)[name], vars(b)[name]) for name in _PARTS)


def _same_parts(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
