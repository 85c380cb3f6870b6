"""Search for the module whose traced code computes something else: the first whose result differs.

A module that is one node of the graph is not to blame for its result: its input differs, and the code that
made it is that of the module around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from octify.trace.duplicate import duplicate
from octify.trace.model import Traced
from octify.trace.noise import Nearness
from octify.trace.sameness import tensors_of
from octify.trace.trial import run, seeded

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blamed(model: nn.Module, traced: Traced, inputs: Sequence[Tensor]) -> str:
    """Path of the module of ``model`` to blame for a difference at ``inputs``; empty for the model itself."""
    nodes = {str(node.target) for node in traced.module.graph.find_nodes(op="call_module")}
    calls = [call for call in _calls(model, inputs) if not any(_inside(call[0], leaf) for leaf in nodes)]
    values = _Values(duplicate(traced.module).eval())
    values.run_on(inputs)
    for (path, expected), (traced_path, names) in zip(calls, traced.results, strict=False):
        actual = [values.by_name.get(name) for name in names]
        if path == traced_path and _alike(expected, actual):
            continue
        return _around(model, path) if path in nodes or path != traced_path else path
    return ""


def _inside(path: str, leaf: str) -> bool:
    return path.startswith(f"{leaf}.")


def _around(model: nn.Module, path: str) -> str:
    """The module whose code calls the one at ``path``."""
    path = path.rpartition(".")[0]
    while path and isinstance(model.get_submodule(path), _CONTAINERS):
        path = path.rpartition(".")[0]
    return path


def _alike(expected: Sequence[Tensor], actual: Sequence[Any]) -> bool:
    if len(expected) != len(actual):
        return False
    return all(
        isinstance(b, Tensor) and a.shape == b.shape and a.dtype is b.dtype and Nearness.exact(a, b, 0)
        for a, b in zip(expected, actual, strict=True)
    )


def _calls(model: nn.Module, inputs: Sequence[Tensor]) -> list[tuple[str, list[Tensor]]]:
    """The results of all calls of submodules, in the order of their ends."""
    original: nn.Module = duplicate(model).eval()
    results: list[tuple[str, list[Tensor]]] = []

    def note(path: str) -> Any:
        return lambda module, args, result: results.append((path, [t.clone() for t in tensors_of(result)]))

    for path, module in original.named_modules():
        if path:
            module.register_forward_hook(note(path))
    run(original, inputs)
    return results


class _Values(fx.Interpreter):
    """Keeps the value of every node, until one fails."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.extra_traceback = False
        self.by_name: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.by_name[n.name] = result.clone() if isinstance(result, Tensor) else result
        return result

    def run_on(self, inputs: Sequence[Tensor]) -> None:
        """The values for ``inputs``."""
        with seeded(), torch.no_grad():
            try:
                self.run(*(x.clone() for x in inputs))
            except Exception:  # what was not computed is missing, and tells where
                return
