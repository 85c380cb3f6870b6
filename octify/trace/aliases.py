"""Values that are one tensor under several names: what some calls return unchanged in eval mode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from octify.trace.vendors import DROPOUTS, is_one_of

_FORWARDS = frozenset(
    {
        *(nn.Identity.forward, nn.Dropout.forward, nn.Dropout1d.forward, nn.Dropout2d.forward),
        *(nn.Dropout3d.forward, nn.AlphaDropout.forward, nn.FeatureAlphaDropout.forward),
    }
)
_FUNCTIONS = frozenset(
    {
        *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
        *(torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout),
    }
)


def is_identity(module: nn.Module | None) -> bool:
    """Return whether the class of ``module`` returns its input unchanged in eval mode; hooks aside."""
    kind = type(module)
    return getattr(kind, "forward", None) in _FORWARDS or is_one_of(kind, DROPOUTS)


def aliases(module: nn.Module, node: fx.Node) -> set[fx.Node]:
    """``node`` and all values that are the very same tensor in eval mode."""
    members, ahead = {node}, [node]
    while ahead:
        one = ahead.pop()
        around = [user for user in one.users if source_of(module, user) is one]
        source = source_of(module, one)
        for other in (*around, *(() if source is None else (source,))):
            if other not in members:
                members.add(other)
                ahead.append(other)
    return members


def source_of(module: nn.Module, node: fx.Node) -> fx.Node | None:
    """The operand that ``node`` returns unchanged in eval mode; None for one that computes something."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        return first if is_identity(called) else None
    return first if node.op == "call_function" and node.target in _FUNCTIONS else None
