"""Values of a traced graph that are views of others: they share memory, so what changes one changes both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

_SIZES = ("size", "dim", "numel", "item", "ndimension")
_SIZE_ATTRIBUTES = ("shape", "ndim")
# Results of these share memory with their first operand (``contiguous`` and ``reshape`` may).
_VIEWS = frozenset(
    {
        *("chunk", "split", "tensor_split", "unbind"),
        *("getitem", "narrow", "select", "diagonal", "expand", "expand_as"),
        *("view", "view_as", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("permute", "transpose", "swapaxes", "swapdims", "movedim", "t"),
        *("contiguous", "detach", "data", "ravel", "reshape_as", "moveaxis", "hsplit", "vsplit", "dsplit"),
        # They return their operand itself, or a copy: that depends on its type, device and order.
        *("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "real", "positive"),
        *("broadcast_tensors", "broadcast_to", "atleast_1d", "atleast_2d", "atleast_3d", "T", "mT", "conj"),
        *("adjoint", "as_strided", "unfold", "view_as_real", "view_as_complex", "swapdims", "unsafe_chunk"),
        *("unsafe_split", "split_with_sizes", "unsafe_split_with_sizes"),
        *("alias", "as_subclass", "resolve_conj", "resolve_neg", "rot90", "pos", "as_tensor", "asarray"),
    }
)
_IN_PARTS = (
    *("chunk", "split", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit", "unsafe_chunk"),
    *("unsafe_split", "split_with_sizes", "unsafe_split_with_sizes"),
)


def is_number(node: fx.Node) -> bool:
    """Return whether a value is a size, or computed from sizes alone: numbers are never changed in place."""
    if node.op == "call_method" and node.target in _SIZES:
        return True
    if node.op != "call_function" or _makes_tensors(node.target):
        return False
    if node.target is getattr:
        return node.args[1] in _SIZE_ATTRIBUTES
    inputs = node.all_input_nodes
    return bool(inputs) and all(is_number(n) for n in inputs)


def _makes_tensors(target: Any) -> bool:
    """Return whether a function is torch's own, such as ``torch.zeros``, which makes a tensor of sizes."""
    name = getattr(target, "__name__", "")
    return getattr(torch, name, None) is target and not name.startswith("sym_")


def name_of(node: fx.Node) -> str:
    """Name of the function, method or attribute that a node calls."""
    if node.op == "call_function" and node.target is getattr:
        return str(node.args[1])
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def is_view(node: fx.Node) -> bool:
    """Return whether a value may share the memory of its first operand."""
    return node.op in ("call_method", "call_function") and name_of(node) in _VIEWS and not is_number(node)


def is_tuple_of_views(node: fx.Node) -> bool:
    """Return whether a value is a tuple of views that do not overlap."""
    return is_view(node) and name_of(node) in _IN_PARTS


def ancestry(node: fx.Node) -> list[fx.Node]:
    """``node``, what it is a view of, what that is a view of and so on; with the tuples in between."""
    chain = [node]
    while is_view(node) and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        chain.append(node)
    return chain


def views_of(node: fx.Node) -> Iterator[fx.Node]:
    """Views of ``node``, and views of those."""
    for user in node.users:
        if is_view(user) and user.args[0] is node:
            yield user
            yield from views_of(user)


def overlapping(node: fx.Node) -> set[fx.Node]:
    """Values that may share entries with ``node``: what it is a view of, and other views of that."""
    chain = ancestry(node)
    result = {each for each in chain[1:] if not is_tuple_of_views(each)}
    for each in chain:
        if each is not node and is_tuple_of_views(each):
            continue  # its other members do not overlap
        for user in each.users:
            if is_view(user) and user.args[0] is each and user not in chain:
                result |= {user, *views_of(user)}
    return result
