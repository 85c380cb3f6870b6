"""Factories that are given sizes one by one: ``torch.zeros(batch, 8, h, w)``.

Their first argument, a proxy of a number, is taken for a tensor, and no more arguments are allowed behind it:
the call fails before anything could record it. Of a tuple it is recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import fx

_NAMES = ("zeros", "ones", "empty", "rand", "randn")


@contextmanager
def sizes_as_tuples() -> Iterator[None]:
    """Meanwhile torch's factories take sizes that are proxies one by one, too."""
    with ExitStack() as stack:
        for name in _NAMES:
            stack.enter_context(patch.object(torch, name, _packing(getattr(torch, name))))
        yield


def _packing(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def call(*size: Any, **options: Any) -> Any:
        if len(size) > 1 and any(issubclass(type(n), fx.Proxy) for n in size):
            return factory(size, **options)
        return factory(*size, **options)

    return call
