"""``x[index] = value`` as a function."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def assigned(x: Tensor, index: Any, value: Any) -> Tensor:
    """A copy of ``x``, of any shape, whose entries at ``index`` are ``value``."""
    x = x.clone()
    x[index] = value
    return x
