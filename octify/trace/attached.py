"""Behaviour attached to one module, which its class does not tell: hooks and replaced methods.

A layer with it is not what its type says, and is never rewritten by its type.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from octify.compat import LAYER_METHODS, ConvNd, backward_hooks, forward_hooks, forward_pre_hooks


def attached(module: nn.Module) -> str | None:
    """Describe what is attached to ``module``, as a reason; None if it is as its class defines it."""
    if forward_hooks(module) or not all(_makes_weight(module, h) for h in forward_pre_hooks(module).values()):
        return "it has forward hooks, which a rewritten layer would lose"
    if backward_hooks(module):
        return "it has backward hooks, which a rewritten layer would lose"
    replaced = next((name for name in LAYER_METHODS if name in vars(module)), None)
    replaced = replaced or _method_of_its_class(module)
    return None if replaced is None else f"its method {replaced} was replaced"


def _makes_weight(module: nn.Module, hook: Any) -> bool:
    """Pruning, weight and spectral norm compute a convolution's weight by a hook; its rules know that."""
    return isinstance(module, ConvNd) and isinstance(hook, (BasePruningMethod, WeightNorm, SpectralNorm))


def _method_of_its_class(module: nn.Module) -> str | None:
    """A method of the class that an attribute of the instance hides."""
    hidden = (name for name, own in vars(module).items() if callable(own))
    return next((name for name in hidden if _is_method(type(module), name)), None)


def _is_method(kind: type, name: str) -> bool:
    return callable(getattr(kind, name, None)) and not isinstance(getattr(kind, name), type)
