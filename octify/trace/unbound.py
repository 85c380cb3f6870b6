"""Methods of tensors that a model's code calls by way of the class: ``torch.Tensor.narrow(x, 1, 0, 8)``.

They are compiled, and take nothing but a tensor: a proxy is refused before anybody could record the call.
While a model is traced, those that its code names are stood in for by functions that record it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from octify.trace.numbers import modules_of

_NAMED = re.compile(r"\bTensor\.(\w+)")
_COMPILED = (type(Tensor.relu), type(Tensor.__getitem__))  # method and slot descriptors


@contextmanager
def unbound_recorded(model: nn.Module) -> Iterator[None]:
    """Meanwhile calls of tensors' methods by way of ``torch.Tensor`` are recorded as calls of methods."""
    files = {getattr(module, "__file__", None) or "" for module in modules_of(model)}
    names = {name for file in files for name in _named_in(file)}
    own = {name: vars(Tensor).get(name) for name in sorted(names)}
    stand_ins = {name: getattr(Tensor, name, None) for name in own}
    placed = [name for name, method in stand_ins.items() if isinstance(method, _COMPILED)]
    for name in placed:
        setattr(Tensor, name, _recording(name, stand_ins[name]))
    try:
        yield
    finally:
        for name in placed:
            if own[name] is None:  # it is inherited
                delattr(Tensor, name)
            else:
                setattr(Tensor, name, own[name])


@lru_cache(maxsize=4096)
def _named_in(file: str) -> frozenset[str]:
    try:
        return frozenset(_NAMED.findall(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return frozenset()


def _recording(name: str, method: Any) -> Any:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if args and issubclass(type(args[0]), fx.Proxy):
            operator = getattr(args[0], name, None) if name.startswith("__") else None
            if operator is not None:
                return operator(*args[1:], **kwargs)
            return args[0].tracer.create_proxy("call_method", name, args, kwargs)
        return method(*args, **kwargs)

    return call
