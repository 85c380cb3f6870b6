"""Values that are one tensor under several names: what some calls return unchanged in eval mode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

_NAMES = ("DropPath", "StochasticDepth", "DropBlock2d", "DropBlock3d")
_FUNCTIONS = frozenset(
    {
        *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
        *(torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout),
    }
)


def aliases(module: nn.Module, node: fx.Node) -> set[fx.Node]:
    """``node`` and all values that are the very same tensor in eval mode."""
    found, ahead = {node}, [node]
    while ahead:
        one = ahead.pop()
        around = [user for user in one.users if source_of(module, user) is one]
        source = source_of(module, one)
        for other in (*around, *(() if source is None else (source,))):
            if other not in found:
                found.add(other)
                ahead.append(other)
    return found


def source_of(module: nn.Module, node: fx.Node) -> fx.Node | None:
    """The operand that ``node`` returns unchanged in eval mode; None for one that computes something."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        same = isinstance(called, (nn.Identity, _DropoutNd)) or type(called).__name__ in _NAMES
        return first if same else None
    return first if node.op == "call_function" and node.target in _FUNCTIONS else None
