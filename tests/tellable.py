"""Sizes that low channels alone do not tell: layers refuse them, and no plan has such a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import reject

from octify.errors import PlanError

T = TypeVar("T")


def unless_untellable(compute: Callable[[], T], *, alone: bool) -> T:
    """``compute()``; its refusal of a size is no case, but only where a value has low channels ``alone``."""
    try:
        return compute()
    except PlanError as error:
        assert alone and "low channels alone" in str(error), error
        reject()
