"""Values of a graph that do not depend on its input: weights, and what a model's code computes of them."""

from __future__ import annotations

import operator
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import fx, nn

from octify.compat import TorchDispatchMode


def constant(module: nn.Module, value: Any, cache: MutableMapping[fx.Node, Any]) -> Any:
    """Evaluate a value of a graph over ``module`` that is the same in every run.

    What is no node is returned as it is. Raises LookupError where the value depends on the input, is drawn
    at random, or is computed by a change in place.
    """
    if not isinstance(value, fx.Node):
        return value
    if value in cache:
        return cache[value]
    if value.op == "get_attr":
        result: Any = operator.attrgetter(str(value.target))(module)
    elif value.op in ("call_function", "call_method"):
        args = fx.map_arg(value.args, lambda n: constant(module, n, cache))
        kwargs = fx.map_arg(value.kwargs, lambda n: constant(module, n, cache))
        with torch.no_grad(), _Steady():  # type: ignore[no-untyped-call]
            if value.op == "call_method":
                result = getattr(args[0], str(value.target))(*args[1:], **kwargs)
            else:
                result = value.target(*args, **kwargs)  # type: ignore[operator]
    else:
        raise LookupError(value.name)
    cache[value] = result
    return result


class _Steady(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that give another result next time."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            raise LookupError(f"{func} draws at random")
        if func._schema.is_mutable:
            raise LookupError(f"{func} changes its operand")
        return func(*args, **(kwargs or {}))
