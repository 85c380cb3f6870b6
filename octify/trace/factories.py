"""Factories that are given sizes one by one: ``torch.zeros(batch, 8, h, w)``.

Their first argument, a proxy of a number, is taken for a tensor, and no more arguments are allowed behind it:
the call fails before anything could record it. Of a tuple it is recorded. A proxy that knows its number would
be asked for it, which fixes the size: what is given one is recorded at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import fx

from octify.trace.numbers import proxies_in

_OF_SIZES = ("zeros", "ones", "empty", "rand", "randn")
_OF_NUMBERS = ("full", "arange", "linspace", "logspace", "eye", "tensor", "as_tensor")


@contextmanager
def sizes_as_tuples() -> Iterator[None]:
    """Meanwhile torch's factories take sizes that are proxies one by one, too."""
    with ExitStack() as stack:
        for name in (*_OF_SIZES, *_OF_NUMBERS):
            wrapper = _packing(getattr(torch, name), sizes=name in _OF_SIZES)
            stack.enter_context(patch.object(torch, name, wrapper))
        yield


def _packing(factory: Callable[..., Any], *, sizes: bool) -> Callable[..., Any]:
    @functools.wraps(factory)
    def call(*args: Any, **options: Any) -> Any:
        for proxy in proxies_in((args, *options.values())):
            tracer: Any = proxy.tracer
            if tracer.knows_number(proxy):
                return tracer.create_proxy("call_function", factory, args, options)
        if sizes and len(args) > 1 and any(issubclass(type(n), fx.Proxy) for n in args):
            return factory(args, **options)
        return factory(*args, **options)

    return call
