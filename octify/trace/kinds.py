"""Stand-in for ``type`` while a model is traced: ``type(x) is Tensor`` is true of a tensor's proxy."""

from __future__ import annotations

import builtins
from typing import Any

from torch import fx


class _TypeClass(builtins.type):
    """The class of what stands for ``type``, and has its instances and subclasses."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and issubclass(builtins.type(args[0]), fx.Proxy):
            return args[0].__class__
        return builtins.type(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, builtins.type)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, builtins.type)

    def __getattribute__(cls, name: str) -> Any:
        return getattr(builtins.type, name)

    def __getitem__(cls, item: Any) -> Any:
        return builtins.type[item]

    def __eq__(cls, other: object) -> bool:
        return other is builtins.type or other is cls

    def __hash__(cls) -> int:
        return hash(builtins.type)


class Kind(metaclass=_TypeClass):
    """In the place of ``type``."""


def is_callable(value: Any) -> bool:
    """``callable``: every proxy is, and a tensor is not."""
    if issubclass(builtins.type(value), fx.Proxy):
        return callable(value) and value.__class__ is builtins.type(value)
    return callable(value)
