"""How an operation that octify knows is written in a model's source."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from octify.ops import table
from octify.ops.base import Op

_HOMES: tuple[tuple[str, Any], ...] = (
    ("F", F),
    ("torch", torch),
    ("operator", operator),
    ("torch.linalg", torch.linalg),
    ("torch.Tensor", torch.Tensor),
)


@dataclass(frozen=True)
class Target:
    """A module class, function or method of a family.

    ``text`` is its spelling, ``top`` the import it needs, ``short`` its bare name (``Conv`` for nn.Conv2d).
    """

    family: str
    kind: str
    text: str
    top: str = ""

    @property
    def short(self) -> str:
        name = self.text.rpartition(".")[2].rstrip("_")
        return name[:-2] if name[-2:] in ("1d", "2d", "3d") else name


def targets() -> list[Target]:
    """Every target of every registered family, those of values with moved channels included.

    A target that this installation lacks (a library's own layers) is left out.
    """
    made = [target for op in _families() for target in _targets_of(op)]
    return list(dict.fromkeys(made))


def _families() -> list[Op]:
    found: dict[int, Op] = {}
    for known in (table(), table(views=True)):
        for entries in (known._modules, known._functions, known._methods):
            found |= {id(op): op for op in entries.values()}
    return list(found.values())


def _targets_of(op: Op) -> Iterator[Target]:
    for module in op.modules:
        kind = module if isinstance(module, type) else _imported(module)
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            yield _class_target(op.name, kind)
    for function in op.functions:
        found = _imported(function) if isinstance(function, str) else function
        if found is not None:
            yield _function_target(op.name, found)
    for method in op.methods:
        yield Target(op.name, "method", method)


def _class_target(family: str, kind: type) -> Target:
    if getattr(nn, kind.__name__, None) is kind:
        return Target(family, "module", f"nn.{kind.__name__}")
    # "from": a package may have a function of its module's name.
    return Target(family, "module", kind.__name__, f"from {kind.__module__} import {kind.__name__}")


def _function_target(family: str, function: Any) -> Target:
    for home, place in _HOMES:
        for name in dir(place):
            if not name.startswith("_") and getattr(place, name, None) is function:
                top = "import operator" if home == "operator" else ""
                return Target(family, "function", f"{home}.{name}", top)
    if function is getattr:
        return Target(family, "function", "getattr")
    module, name = function.__module__, function.__name__
    return Target(family, "function", name, f"from {module} import {name}")


def _imported(name: str) -> Any:
    """What a qualified name means; None where it is not installed."""
    if name.startswith(".TensorBase."):
        return getattr(torch.Tensor, name.rpartition(".")[2])
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            value = getattr(value, part, None)
        return value
    return None
