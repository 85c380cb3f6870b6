"""Code for graphs whose modules bear names that are Python's keywords: ``nn.ModuleDict({"class": head})``.

FX writes ``self.heads.class(x)``, which is no Python.
"""

from __future__ import annotations

import keyword
from typing import Any
from unittest.mock import patch

from torch import fx
from torch.fx import graph as _graph


def _format_target(base: str, target: str) -> str:
    """An expression for the attribute at a dotted path, whatever its names are."""
    for name in target.split("."):
        plain = name.isidentifier() and not keyword.iskeyword(name)
        base = f"{base}.{name}" if plain else f"getattr({base}, {name!r})"
    return base


class AnyNames(_graph.CodeGen):
    """FX's code, with ``getattr`` where a name is a keyword."""

    def _gen_python_code(self, *args: Any, **kwargs: Any) -> Any:
        with patch.object(_graph, "_format_target", _format_target):
            return super()._gen_python_code(*args, **kwargs)


def with_any_names(graph: fx.Graph) -> fx.Graph:
    """``graph``, which from now on may call modules whatever their names are; copies of it may too."""
    graph.set_codegen(AnyNames())
    return graph
