"""Check of settings with a fixed set of choices."""

from __future__ import annotations

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
