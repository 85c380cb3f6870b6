"""Tests for BatchNorm: four questions, from the widest to the narrowest.

* ``is_affine_norm``: it computes with running statistics, whatever its class. Calibration asks, and judges
  what it makes of the answer.
* ``is_batch_norm``: training it estimates statistics of a batch; subclasses of any library included.
* ``keeps_statistics``: a BatchNorm with running statistics that can be estimated again.
* ``is_known_batch_norm``: what it computes in eval mode is known exactly, so that it can be folded.
"""

from __future__ import annotations

from torch import Tensor, nn

from octify.compat import BATCH_NORM_FORWARDS, BatchNorm
from octify.trace.vendors import ACTIVATED_BATCH_NORMS, FROZEN_BATCH_NORMS, is_one_of

_STATISTICS = ("running_mean", "running_var")


def is_affine_norm(module: nn.Module) -> bool:
    """Return whether a module is, in eval mode, a fixed affine map per channel (and maybe an activation)."""
    return has_statistics(module) and hasattr(module, "eps")


def is_batch_norm(module: nn.Module | None) -> bool:
    """Return whether a module is a BatchNorm of torch or of a class derived from it."""
    return isinstance(module, BatchNorm)


def has_statistics(module: nn.Module) -> bool:
    """Return whether a module has a running mean and variance."""
    return all(isinstance(getattr(module, name, None), Tensor) for name in _STATISTICS)


def keeps_statistics(module: nn.Module) -> bool:
    """Return whether a module is a BatchNorm whose running statistics training updates."""
    return is_batch_norm(module) and has_statistics(module)


def is_frozen_batch_norm(module: nn.Module) -> bool:
    """Return whether a module is a class of BatchNorm for images whose statistics nothing updates."""
    return is_one_of(type(module), FROZEN_BATCH_NORMS)


def is_known_batch_norm(module: nn.Module) -> bool:
    """Return whether the class of a module is a BatchNorm with statistics and a forward that octify knows.

    Hooks and parametrizations are the caller's question.
    """
    plain = is_batch_norm(module) and type(module).forward in BATCH_NORM_FORWARDS
    supported = plain or is_frozen_batch_norm(module) or is_one_of(type(module), ACTIVATED_BATCH_NORMS)
    return supported and has_statistics(module)
