"""Hooks that a graph does not run: told, for what they keep or count is kept and counted no more.

A module that tracing has gone through is no module of the graph. What its hooks do to values is part of the
graph; what else they do was done once, while it was traced. Hooks on a parameter's gradient are lost with it.
"""

from __future__ import annotations

from torch import nn

from octify.checks.words import some
from octify.compat import backward_hooks, forward_hooks, forward_pre_hooks, has_own_hooks
from octify.trace.model import Traced


def silenced_hooks(model: nn.Module, traced: Traced) -> tuple[str, ...]:
    """A sentence on the modules of ``model`` whose hooks the graph does not call; empty where none is."""
    nodes = {str(node.target) for node in traced.module.graph.find_nodes(op="call_module")}
    paths = [path for path, module in model.named_modules() if _has_hooks(module)]
    lost = [path for path in paths if _is_gone_through(path, traced) and not _is_kept(path, nodes)]
    if not lost:
        return ()
    names = some([path or "the model itself" for path in lost])
    return (
        f"the converted model does not call the hooks of {names}: what they do to values is part of "
        "its graph, and what else they do (keep features, count calls) is not done. Register them on the "
        "converted model, on a layer that it still has",
    )


def lost_hooks(model: nn.Module) -> tuple[str, ...]:
    """A sentence on parameters of ``model`` whose hooks the converted model lacks; empty where none is."""
    names = [name for name, parameter in model.named_parameters() if has_own_hooks(parameter)]
    if not names:
        return ()
    return (
        "in training the converted model does not call the hooks on the gradients of "
        f"{some(names)}: its parameters are others. Register them on its own",
    )


def _has_hooks(module: nn.Module) -> bool:
    return any((forward_hooks(module), forward_pre_hooks(module), backward_hooks(module)))


def _is_kept(path: str, nodes: set[str]) -> bool:
    """Return whether the module at ``path`` is a node of the graph, or inside one."""
    names = path.split(".")
    return any(".".join(names[:end]) in nodes for end in range(1, len(names) + 1))


def _is_gone_through(path: str, traced: Traced) -> bool:
    """Return whether a graph replaces the module at ``path``; in a model in parts, it is inside a part."""
    if traced.parts is None:
        return True
    return any(path.startswith(f"{part.path}.") for part in traced.parts.members if not part.alone)
