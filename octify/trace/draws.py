"""Random numbers that do not depend on how many were drawn before.

A dropout whose result nobody reads draws numbers in a model, and is not in its graph: what is drawn after it
would be other numbers, though both compute the same.
"""

from __future__ import annotations

from typing import Any

import torch

from octify.compat import TorchDispatchMode

_SEED = 20261


class SameDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Meanwhile every operation that draws random numbers begins anew, whatever was drawn before."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            torch.manual_seed(_SEED)
        return func(*args, **(kwargs or {}))
