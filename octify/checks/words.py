"""Words of messages: settings with a fixed set of choices, and lists that are cut short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from octify.errors import PlanError


def require_known(name: str, value: object, choices: Any, where: str | None = None) -> None:
    """Raise PlanError unless ``value``, the setting ``name``, is one of ``choices`` (a ``Literal``)."""
    allowed = get_args(choices)
    if not isinstance(value, str) or value not in allowed:
        raise PlanError(
            f"{name} is {value!r}, which octify does not know",
            where=where,
            hint=f"{name} is one of {', '.join(map(repr, allowed))}",
        )


def some(names: Sequence[str], most: int = 4) -> str:
    """The first ``most`` of ``names``, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
