"""Comparison of two results: their classes, their form, and their values up to a tolerance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Near = Callable[[Tensor, Tensor, int], bool]


def difference(expected: Any, actual: Any, near: Near) -> str | None:
    """The first difference in a few words; None if there is none.

    ``near`` judges two tensors of one shape and dtype; its number counts the tensors of the result.
    """
    return _Difference(near).compare(expected, actual, "")


@dataclasses.dataclass
class _Difference:
    near: Near
    count: int = 0

    def compare(self, a: Any, b: Any, at: str) -> str | None:
        place = f" at {at}" if at else ""
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return self._tensors(a, b, place)
        if type(a) is not type(b) and not _both_sequences_of_sizes(a, b):
            return f"a {type(b).__name__} in place of a {type(a).__name__}{place}"
        entries, others = _entries(a), _entries(b)
        if entries is None or others is None:
            return None if _equal(a, b) else f"{b!r} in place of {a!r}{place}"
        if list(entries) != list(others):
            return f"entries {_shown(others)} in place of {_shown(entries)}{place}"
        differences = (self.compare(a_, others[key], f"{at}[{key!r}]") for key, a_ in entries.items())
        return next((each for each in differences if each is not None), None)

    def _tensors(self, a: Tensor, b: Tensor, place: str) -> str | None:
        number, self.count = self.count, self.count + 1
        if a.shape != b.shape:
            return f"a tensor of {_size(b)} in place of {_size(a)}{place}"
        if a.dtype is not b.dtype or a.device != b.device:
            return f"a {b.dtype} tensor on {b.device} in place of a {a.dtype} one on {a.device}{place}"
        if self.near(a, b, number):
            return None
        error = float((a.double() - b.double()).abs().nan_to_num(nan=float("inf")).max())
        return f"values that are off by up to {error:.3g}{place}"


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of a result, in the order in which ``difference`` counts them."""
    if isinstance(value, Tensor):
        return [value]
    return [t for each in (_entries(value) or {}).values() for t in tensors_of(each)]


def _entries(value: Any) -> Mapping[Any, Any] | None:
    """Contents of a container, by key; None for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _both_sequences_of_sizes(a: Any, b: Any) -> bool:
    """A ``torch.Size`` and a tuple of its numbers are alike in all that matters."""
    return (
        isinstance(a, tuple)
        and isinstance(b, tuple)
        and {type(a).__name__, type(b).__name__} == {"Size", "tuple"}
    )


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a is b or a == b or (a != a and b != b))
    except Exception:  # objects that cannot be compared
        return True


def _shown(entries: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, list(entries)[:8])) or "(none)"


def _size(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "no dimensions"
