"""Code for graphs whose modules bear names that are Python's keywords: ``nn.ModuleDict({"class": head})``.

FX writes ``self.heads.class(x)``, which is no Python.
"""

from __future__ import annotations

import keyword
from contextlib import AbstractContextManager

from torch import fx

from octify.compat import CodeGen, targets_written


def _expression(base: str, target: str) -> str:
    for name in target.split("."):
        plain = name.isidentifier() and not keyword.iskeyword(name)
        base = f"{base}.{name}" if plain else f"getattr({base}, {name!r})"
    return base


def any_names() -> AbstractContextManager[None]:
    """Meanwhile all of FX's code may name any module: that of graphs which PyTorch's exporter makes, too."""
    return targets_written(_expression)


class AnyNames(CodeGen):
    """FX's code, with ``getattr`` where a name is a keyword."""

    def format_target(self, base: str, target: str) -> str:
        """An expression for the attribute at a dotted path, whatever its names are."""
        return _expression(base, target)


def with_any_names(graph: fx.Graph) -> fx.Graph:
    """``graph``, which from now on may call modules whatever their names are; copies of it may too."""
    graph.set_codegen(AnyNames())
    return graph
