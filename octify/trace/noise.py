"""Tolerance between two results of the same computation, from the noise of the model's arithmetic.

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

NOISE_FACTOR = 8.0  # two float32 computations in another order or of other shapes, against the noise of one
FLOOR_ULPS = 16.0  # of the largest value: for outputs that happen to have (almost) no noise
_MOST_SHARE = 1 / 32  # of the largest value: 1024 ulps of half precision are all of it
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
        return same(a, b) or (_is_real(a) and gap(a, b) <= _most(a))

    def __call__(self, a: Tensor, b: Tensor, number: int) -> bool:
        if same(a, b):
            return True
        if not _is_real(a):
            return False
        unit = torch.finfo(a.dtype).eps * largest(a)
        noise = self._noise[number] if number < len(self._noise) else 0.0
        allowed = min(max(NOISE_FACTOR * noise, FLOOR_ULPS * unit), _most(a))
        return gap(a, b) <= allowed

    @cached_property
    def _noise(self) -> list[float]:
        wide: nn.Module = duplicate(self._model).eval().double()
        trial = run(wide, [x.double() if x.is_floating_point() else x for x in self._inputs])
        exact = tensors_of(trial.result)
        if trial.error is not None or len(exact) != len(self._expected):  # a dtype that is written down
            return [0.0] * len(self._expected)
        return [gap(a, b) if a.shape == b.shape else 0.0 for a, b in zip(self._expected, exact, strict=True)]


def _most(a: Tensor) -> float:
    """Largest gap that can be rounding."""
    return min(_MOST_ULPS * torch.finfo(a.dtype).eps, _MOST_SHARE) * largest(a)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal shapes and values; NaN equals NaN."""
    if a.shape != b.shape:
        return False
    if torch.equal(a, b):
        return True
    return _is_real(a) and bool(torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True))


def _is_real(x: Tensor) -> bool:
    return x.is_floating_point()


def gap(a: Tensor, b: Tensor) -> float:
    """max |a - b|; equal infinities and NaN in the same place count as equal, other NaN as infinity.

    Infinite where the shapes differ, 0 where there are no values.
    """
    if a.shape != b.shape:
        return float("inf")
    wide_a, wide_b = a.double(), b.double()
    alike = (wide_a == wide_b) | (wide_a.isnan() & wide_b.isnan())
    error = (wide_a - wide_b).abs().masked_fill(alike, 0.0)
    return float(error.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if error.numel() else 0.0


def largest(x: Tensor) -> float:
    """max |x| over the finite values; 0 where there are none."""
    size = x.double().abs()
    size = size[size.isfinite()]
    return float(size.max()) if size.numel() else 0.0
