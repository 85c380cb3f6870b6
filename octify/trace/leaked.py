"""Proxies that a forward keeps on its module (``self.mean = self.mean.type_as(x)``), taken away again.

Left there, the next call of the module would write nodes into a graph that is finished.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from torch import fx, nn


@contextmanager
def without_proxies(model: nn.Module) -> Iterator[None]:
    """After tracing, every attribute or buffer that holds a proxy is what it was before, or gone."""
    before = [(held, dict(held)) for module in model.modules() for held in (vars(module), module._buffers)]
    try:
        yield
    finally:
        for held, own in before:
            _restore(held, own)


def _restore(held: MutableMapping[str, Any], own: MutableMapping[str, Any]) -> None:
    for name in [name for name, value in held.items() if issubclass(type(value), fx.Proxy)]:
        if name in own:
            held[name] = own[name]
        else:
            del held[name]
