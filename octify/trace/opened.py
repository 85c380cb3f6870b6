"""Results of classes that PyTorch's trees do not know, as dicts: dataclasses, other mappings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from octify.compat import tree_leaves, tree_map


def opened(result: Any) -> Any:
    """``result`` with dicts in the place of objects that torch takes for leaves and that hold others."""
    return tree_map(_entries, result)


def is_closed(result: Any) -> bool:
    """Return whether ``result`` holds tensors in an object that torch's pytree does not open or store."""
    leaves = tree_leaves(result, is_leaf=_is_named)
    return any(map(_is_named, leaves)) or any(
        any(isinstance(t, Tensor) for t in tree_leaves(_entries(x))) for x in leaves if _holds(x)
    )


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _holds(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        return False
    return isinstance(leaf, Mapping) or (dataclasses.is_dataclass(leaf) and not isinstance(leaf, type))


def _entries(leaf: Any) -> Any:
    if not _holds(leaf):
        return leaf
    if isinstance(leaf, Mapping):
        return {key: opened(value) for key, value in leaf.items()}
    return {field.name: opened(getattr(leaf, field.name)) for field in dataclasses.fields(leaf)}
