"""Questions about nodes of a traced graph that several steps of calibration ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from octify.trace import Traced

_STATISTICS = ("running_mean", "running_var")


def is_affine_norm(module: nn.Module) -> bool:
    """Whether a module is, in eval mode, a fixed affine map per channel (and maybe an activation)."""
    return all(isinstance(getattr(module, name, None), Tensor) for name in _STATISTICS) and hasattr(
        module, "eps"
    )


def only_user(node: fx.Node) -> fx.Node | None:
    """The one reader of a node's value, if there is but one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def inner_activation(norm: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The activation inside a norm, if it has one."""
    act = getattr(norm, "act", None)
    return act if isinstance(act, nn.Module) and not isinstance(act, nn.Identity) else None


def elementwise(traced: Traced, node: fx.Node) -> Callable[[Tensor], Tensor] | None:
    """The function of one tensor, element by element, that ``node`` applies; None if it is none."""
    from octify.ops import table

    op = table().find(traced, node)
    if op is None or op.name != "elementwise" or len(node.all_input_nodes) != 1:
        return None
    module = traced.submodule(node)
    if module is not None:
        return module
    args, kwargs = node.args[1:], dict(node.kwargs)
    kwargs.pop("input", None)
    if node.op == "call_method":
        name = str(node.target).removesuffix("_")
        return lambda x: getattr(x, name)(*args, **kwargs)
    target: Any = node.target
    return lambda x: target(x.clone(), *args, **kwargs)
