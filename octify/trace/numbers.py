"""Python's own functions of numbers, recorded when they are given sizes: ``int(h * 0.5)``, ``max(h, w)``.

``int`` and ``float`` must return numbers, and ``max`` and ``min`` compare: without help each fixes the sizes
it is given. While a model is traced, the modules of its code find functions here by these names. What is
given no size does what it always did.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import fx, nn

from octify.trace.kinds import Kind, is_callable

_KINDS = ("int", "float")
_FUNCTIONS = ("max", "min", "len")
# A module that compares types, or gives one to a function, needs the type itself.
_AS_A_TYPE = re.compile(r"(\bis|\bnot|\bin|[=!]=|dtype\s*=)\s*\(?\s*(int|float)\b(?!\s*\()")
_FOREIGN = {"torch", "numpy", "octify", "scipy", "PIL", "cv2", *sys.stdlib_module_names}


def proxies_in(value: Any) -> Iterator[fx.Proxy]:
    """The proxies in a value, a tuple or a list, and in those within it."""
    if issubclass(type(value), fx.Proxy):
        yield value
    elif type(value) in (tuple, list) or isinstance(value, tuple):
        for entry in value:
            yield from proxies_in(entry)


def _recorded(name: str, args: tuple[Any, ...]) -> fx.Proxy | None:
    """``name(*args)`` as a node, if it is of sizes."""
    open_ones = list(proxies_in(args))
    if not open_ones:
        return None
    tracer: Any = open_ones[0].tracer
    if not all(tracer.is_number(proxy) for proxy in open_ones):
        return None
    result: fx.Proxy = tracer.create_proxy("call_function", getattr(builtins, name), args, {})
    return result


class _IntClass(type):
    """The class of what stands for ``int``: it is taken for ``int`` wherever that is asked."""

    _own: type

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls._own)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, cls._own)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        result = _recorded(cls._own.__name__, args) if len(args) == 1 and not kwargs else None
        return cls._own(*args, **kwargs) if result is None else result

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._own, name)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls._own

    def __hash__(cls) -> int:
        return hash(cls._own)


def _function(name: str) -> Callable[..., Any]:
    own = getattr(builtins, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if name == "len" and len(args) == 1 and issubclass(type(args[0]), fx.Proxy):
            proxy: Any = args[0]
            return proxy.tracer.length_of(proxy)
        result = None if kwargs or name == "len" else _recorded(name, args)
        return own(*args, **kwargs) if result is None else result

    return call


_STAND_INS: dict[str, Any] = {
    **{name: _IntClass(name, (), {"_own": getattr(builtins, name)}) for name in _KINDS},
    **{name: _function(name) for name in _FUNCTIONS},
    "type": Kind,
    "callable": is_callable,
}


@contextmanager
def numbers_recorded(model: nn.Module) -> Iterator[None]:
    """Meanwhile the modules of the model's code record what they compute from sizes."""
    placed: list[tuple[dict[str, Any], str]] = []
    try:
        for module in modules_of(model):
            for name in _names_for(module):
                vars(module)[name] = _STAND_INS[name]
                placed.append((vars(module), name))
        yield
    finally:
        for names, name in placed:
            names.pop(name, None)


def _names_for(module: ModuleType) -> list[str]:
    """Names that the module does not define itself, and does not use as types."""
    missing = [name for name in _STAND_INS if name not in vars(module)]
    compares = _compares_types(getattr(module, "__file__", None) or "")
    return [name for name in missing if not (compares and name in _KINDS)]


@lru_cache(maxsize=4096)
def _compares_types(file: str) -> bool:
    try:
        return _AS_A_TYPE.search(Path(file).read_text(encoding="utf-8")) is not None
    except (OSError, ValueError):
        return False


def modules_of(model: nn.Module) -> list[ModuleType]:
    """Modules that hold the code of the model: its classes', and those of the functions they use."""
    names = {base.__module__ for each in model.modules() for base in type(each).__mro__}
    first = [sys.modules[name] for name in sorted(names) if _is_own(name)]
    by_id = {id(module): module for module in first}
    for module in first:
        for value in list(vars(module).values()):
            name = value.__module__ if isinstance(value, (FunctionType, type)) else None
            used = value if isinstance(value, ModuleType) else sys.modules.get(name or "")
            if used is not None and _is_own(used.__name__):
                by_id[id(used)] = used
    return list(by_id.values())


def _is_own(name: str) -> bool:
    return name in sys.modules and name.partition(".")[0] not in _FOREIGN
