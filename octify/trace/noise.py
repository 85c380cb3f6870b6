"""How far apart two results of the same computation may be: by the noise of the model's own arithmetic.

The graph runs the model's own operations in the model's order, so that nearly always both are equal to the
last bit. Where they are not, the noise is the difference between the model's result and the one in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from octify.trace.duplicate import duplicate
from octify.trace.sameness import tensors_of
from octify.trace.trial import run

_FACTOR = 8.0  # as in octify.compare.rounding: another order of the same sums
_FLOOR_ULPS = 16.0  # of the largest value
_MOST_ULPS = 1024.0  # a model that works in a lower precision is far from float64, and noise is no excuse


class Nearness:
    """Judges the tensors of a result by their place in it."""

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor], expected: Any) -> None:
        self._model = model
        self._inputs = inputs
        self._expected = tensors_of(expected)

    @staticmethod
    def exact(a: Tensor, b: Tensor, number: int) -> bool:
        """Equal, but for what is rounded another way in each run: sums of many threads."""
        return same(a, b) or (
            _is_real(a) and _gap(a, b) <= _MOST_ULPS * torch.finfo(a.dtype).eps * _largest(a)
        )

    def __call__(self, a: Tensor, b: Tensor, number: int) -> bool:
        if same(a, b):
            return True
        if not _is_real(a):
            return False
        unit = torch.finfo(a.dtype).eps * _largest(a)
        noise = self._noise[number] if number < len(self._noise) else 0.0
        allowed = min(max(_FACTOR * noise, _FLOOR_ULPS * unit), _MOST_ULPS * unit)
        return _gap(a, b) <= allowed

    @cached_property
    def _noise(self) -> list[float]:
        wide: nn.Module = duplicate(self._model).eval().double()
        trial = run(wide, [x.double() if x.is_floating_point() else x for x in self._inputs])
        exact = tensors_of(trial.result)
        if trial.error is not None or len(exact) != len(self._expected):  # a dtype that is written down
            return [0.0] * len(self._expected)
        return [_gap(a, b) if a.shape == b.shape else 0.0 for a, b in zip(self._expected, exact, strict=True)]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal shapes and values; NaN equals NaN."""
    if a.shape != b.shape:
        return False
    if torch.equal(a, b):
        return True
    return _is_real(a) and bool(torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True))


def _is_real(x: Tensor) -> bool:
    return x.is_floating_point()


def _gap(a: Tensor, b: Tensor) -> float:
    wide_a, wide_b = a.double(), b.double()
    alike = (wide_a == wide_b) | (wide_a.isnan() & wide_b.isnan())
    gap = (wide_a - wide_b).abs().masked_fill(alike, 0.0)
    return float(gap.nan_to_num(nan=float("inf")).max()) if gap.numel() else 0.0


def _largest(x: Tensor) -> float:
    size = x.double().abs()
    size = size[size.isfinite()]
    return float(size.max()) if size.numel() else 0.0
