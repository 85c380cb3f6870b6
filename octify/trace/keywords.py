"""Code for graphs whose modules bear names that are Python's keywords: ``nn.ModuleDict({"class": head})``.

FX writes ``self.heads.class(x)``, which is no Python.
"""

from __future__ import annotations

import keyword

from torch import fx

from octify.compat import CodeGen


class AnyNames(CodeGen):
    """FX's code, with ``getattr`` where a name is a keyword."""

    def format_target(self, base: str, target: str) -> str:
        """An expression for the attribute at a dotted path, whatever its names are."""
        for name in target.split("."):
            plain = name.isidentifier() and not keyword.iskeyword(name)
            base = f"{base}.{name}" if plain else f"getattr({base}, {name!r})"
        return base


def with_any_names(graph: fx.Graph) -> fx.Graph:
    """``graph``, which from now on may call modules whatever their names are; copies of it may too."""
    graph.set_codegen(AnyNames())
    return graph
