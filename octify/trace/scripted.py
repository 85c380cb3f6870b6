"""Functions of ``torch.jit.script`` in a model's code, traced as the Python functions they were made of.

A scripted function is compiled code, and takes no proxies. It keeps its Python function, which computes the
same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from octify.compat import tree_leaves, unscripted
from octify.trace.numbers import proxies_in


@contextmanager
def scripted_opened() -> Iterator[None]:
    """Meanwhile a scripted function that is called with a proxy runs as Python."""
    kind: Any = torch.jit.ScriptFunction
    compiled = kind.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        function = unscripted(self)
        values = tree_leaves((args, kwargs))
        if function is not None and next(iter(proxies_in(tuple(values))), None) is not None:
            return function(*args, **kwargs)
        return compiled(self, *args, **kwargs)

    with patch.object(kind, "__call__", call):
        yield
