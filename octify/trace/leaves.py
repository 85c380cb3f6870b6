"""Modules that tracing keeps whole: one node each, with the module's own name.

What is kept whole keeps its parameters, its name and its behaviour in training. What is traced
through becomes the functions it calls.
"""

from __future__ import annotations

from torch import nn

from octify.compat import ConvNd, NormBase
from octify.trace.vendors import KEPT

# torch.nn containers are transparent; everything else in torch.nn is one node with its own name.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Subclasses too: padded, standardised, activated, frozen, ... variants of other libraries.
_KEPT_TYPES = (ConvNd, NormBase)
# Norms without statistics of their own: a subclass with a forward that nobody knows is traced through.
_PLAIN_NORMS = (nn.GroupNorm, nn.LayerNorm)
_KEPT_CLASSES = frozenset(name for name in KEPT if not name.endswith(".*"))
_KEPT_MODULES = frozenset(name.removesuffix(".*") for name in KEPT if name.endswith(".*"))


def qualified_name(kind: type) -> str:
    """``package.module.Class``."""
    return f"{kind.__module__}.{kind.__qualname__}"


def is_kept_whole(module: nn.Module) -> bool:
    """Return whether ``module`` becomes one node of the graph."""
    if isinstance(module, _KEPT_TYPES):
        return True
    if isinstance(module, _CONTAINERS):
        return False
    kind = type(module)
    if isinstance(module, _PLAIN_NORMS):
        kind = next(base for base in kind.__mro__ if "forward" in vars(base))
    return (
        kind.__module__.startswith("torch.nn.")
        or kind.__module__ in _KEPT_MODULES
        or qualified_name(kind) in _KEPT_CLASSES
    )
