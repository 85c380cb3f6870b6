"""The comparisons of ``octify verify``: what a conversion must equal, and to within what.

A float32 check may differ by a few times the noise that float32 itself makes: the distance between a
model's float32 and float64 answers, measured on the original and on the projected reference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

FLOAT64_SHARE = 1e-10  # of the largest answer (at least 1): far above rounding, far below any real fault
NOISE_FACTOR = 8  # two float32 computations of other shapes, against the noise of one


@dataclass(frozen=True)
class Check:
    """One comparison. ``passed`` is None where it does not apply, and ``note`` says why."""

    name: str
    dtype: str
    max_abs_error: float
    allowed: float
    passed: bool | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self)


def check(name: str, dtype: str, error: float, allowed: float) -> Check:
    """A comparison that passes when ``error`` is a number of at most ``allowed``."""
    return Check(name, dtype, error, allowed, bool(error <= allowed))


def in_float64(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A float64 copy of ``model``, and its floating inputs in float64."""
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return copy.deepcopy(model).double(), wide


def answers(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Every tensor in the model's output, in order."""
    with torch.no_grad():
        return _tensors(model.eval()(*inputs))


def distance(these: list[Tensor], those: list[Tensor]) -> float:
    """The largest absolute difference; infinite where the outputs do not match in number, shape or NaNs."""
    if len(these) != len(those) or any(a.shape != b.shape for a, b in zip(these, those, strict=True)):
        return math.inf
    largest = 0.0
    for a, b in zip(these, those, strict=True):
        if a.numel() and not torch.equal(a, b):
            difference = float((a.double() - b.double()).abs().max())
            largest = max(largest, math.inf if math.isnan(difference) else difference)
    return largest


def largest(outputs: list[Tensor]) -> float:
    """The largest absolute value in ``outputs``."""
    return max((float(entry.abs().max()) for entry in outputs if entry.numel()), default=0.0)


def float32_noise(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """How far the model's float32 answers are from its float64 ones."""
    wide_model, wide_inputs = in_float64(model, inputs)
    narrow, wide = answers(model, inputs), answers(wide_model, wide_inputs)
    # Where the two happen to agree exactly, one rounding of the result is still allowed.
    return max(distance(narrow, wide), torch.finfo(torch.float32).eps * largest(wide))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for entry in value.values() for tensor in _tensors(entry)]
    if isinstance(value, (tuple, list)):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return []
