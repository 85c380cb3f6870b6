"""Modules that hold another and compute what it computes: on several devices, or compiled.

Tracing goes through them to the module that they hold.
"""

from __future__ import annotations

from torch import nn

from octify.compat import COMPILED
from octify.trace.leaves import qualified_name

_HELD = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    **COMPILED,
}


def held_by(module: nn.Module) -> nn.Module | None:
    """The module that ``module`` wraps; None for one that is no wrapper, or has a forward of its own."""
    name = _HELD.get(qualified_name(type(module)))
    held = None if name is None else getattr(module, name, None)
    return held if isinstance(held, nn.Module) else None
