"""Pooling of octave values.

``exact``: with low input ``u`` standing for ``U u``, the low output is ``P(pool(U u))``.

* Non-overlapping average pooling without padding commutes with ``P`` and ``U``: per branch.
* Max pooling at an even stride ``s`` reads ``U u`` at offsets ``floor(o / 2)``: a smaller
  max pooling of ``u`` at stride ``s / 2``, then ``P``.
* Anything else is computed as it is written.

``paper``: every branch is pooled by the same layer, as Chen et al.'s code does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from octify.kernels.taps import Scheme
from octify.nn.functional import crop, dense_size, low_size, octave_axes, pool, upsample
from octify.nn.tellable import require_tellable

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _each(value: Any, dims: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (int(value),) * dims


def _output_length(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """PyTorch's rule: a ceil-mode window must start inside the input or its left padding."""
    span = n + 2 * padding - dilation * (kernel - 1) - 1
    out = -(-span // stride) + 1 if ceil else span // stride + 1
    return out - 1 if ceil and (out - 1) * stride >= n + padding else out


class _OctavePool(nn.Module):
    """Pools an octave value; subclasses pool one tensor (``_pool``) and fit one to a size (``_fit``)."""

    def __init__(
        self,
        dims: int,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        scheme: Scheme = "paper",
    ) -> None:
        super().__init__()
        self.dims = dims
        self.kernel_size = _each(kernel_size, dims)
        self.stride = self.kernel_size if stride in (None, ()) else _each(stride, dims)
        self.padding = _each(padding, dims)
        self.dilation = _each(dilation, dims)
        self.ceil_mode = ceil_mode
        self.scheme = scheme

    def forward(self, high: Tensor | None, low: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        size = dense_size(high, low)
        need = self._lengths(size, self.ceil_mode)
        require_tellable(high, need)
        y_high = None if high is None else self._pool(high)
        y_low = None if low is None else self._low(low, size, need)
        return y_high, y_low

    def _lengths(self, size: Sequence[int], ceil: bool) -> tuple[int, ...]:
        settings = zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return tuple(_output_length(n, k, s, p, d, ceil) for n, k, s, p, d in settings)

    def _low(self, low: Tensor, size: tuple[int, ...], need: tuple[int, ...]) -> Tensor:
        raise NotImplementedError

    def _pool(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, scheme={self.scheme!r}"


class OctaveMaxPool(_OctavePool):
    """Max pooling of an octave value over 1, 2 or 3 spatial dimensions."""

    def _pool(self, x: Tensor) -> Tensor:
        return _MAX[self.dims](
            x, self.kernel_size, self.stride, self.padding, self.dilation, ceil_mode=self.ceil_mode
        )

    def _low(self, low: Tensor, size: tuple[int, ...], need: tuple[int, ...]) -> Tensor:
        if self.scheme == "paper":
            begin = tuple(-p for p in self.padding)
            return self._windows(low, begin, self.kernel_size, self.stride, self.dilation, low_size(need))
        octave = octave_axes(self.dims)
        if any(halved and s % 2 for halved, s in zip(octave, self.stride, strict=True)):
            return pool(self._pool(upsample(low, size)))
        windows: list[tuple[int, int, int, int]] = []
        for axis, halved in enumerate(octave):
            offsets = [self.dilation[axis] * t - self.padding[axis] for t in range(self.kernel_size[axis])]
            if halved:
                offsets = sorted({o // 2 for o in offsets})
            step = offsets[1] - offsets[0] if len(offsets) > 1 else 1
            if any(b - a != step for a, b in pairwise(offsets)):
                return pool(self._pool(upsample(low, size)))
            stride = self.stride[axis] // 2 if halved else self.stride[axis]
            windows.append((offsets[0], len(offsets), stride, step))
        starts, kernels, strides, dilations = zip(*windows, strict=True)
        return pool(self._windows(low, starts, kernels, strides, dilations, need))

    def _windows(
        self,
        x: Tensor,
        starts: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        need: Sequence[int],
    ) -> Tensor:
        """Max over windows that begin at ``starts``; as many as ``need``, what is outside does not count."""
        extra: list[int] = []
        inner: list[int] = []
        for axis, n in enumerate(x.shape[2:]):
            left = -starts[axis]
            right = (need[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - n - left
            own = left if 0 <= left <= kernel[axis] // 2 and right <= left else 0
            inner.append(own)
            extra = [left - own, max(0, right - own), *extra]
        if any(extra):
            x = F.pad(x, extra, value=float("-inf"))
        y = _MAX[self.dims](x, list(kernel), list(stride), inner, list(dilation))
        return crop(y, need)


class OctaveAvgPool(_OctavePool):
    """Average pooling of an octave value over 1, 2 or 3 spatial dimensions."""

    def __init__(
        self,
        dims: int,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        scheme: Scheme = "paper",
    ) -> None:
        super().__init__(dims, kernel_size, stride, padding, 1, ceil_mode, scheme)
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def _pool(self, x: Tensor, ceil_mode: bool | None = None) -> Tensor:
        ceil = self.ceil_mode if ceil_mode is None else ceil_mode
        more = {} if self.divisor_override is None else {"divisor_override": self.divisor_override}
        y: Tensor = _AVG[self.dims](
            x, self.kernel_size, self.stride, self.padding, ceil, self.count_include_pad, **more
        )
        return y

    def _low(self, low: Tensor, size: tuple[int, ...], need: tuple[int, ...]) -> Tensor:
        holds_a_window = all(n >= k for n, k in zip(low.shape[2:], self.kernel_size, strict=True))
        inner = low_size(need)
        if holds_a_window and (self.scheme == "paper" or self._commutes(size, need)):
            for ceil in (False, True):
                lengths = self._lengths(low.shape[2:], ceil)
                if all(have >= length for have, length in zip(lengths, inner, strict=True)):
                    return crop(self._pool(low, ceil), inner)
        return pool(self._pool(upsample(low, size)))

    def _commutes(self, size: tuple[int, ...], need: tuple[int, ...]) -> bool:
        """Return whether the low output is the same pooling of the low input: windows in whole pairs.

        A last window without a partner is half a window of the low input, which must end there.
        """
        axes = zip(octave_axes(self.dims), size, need, self.kernel_size, strict=True)
        return (
            self.kernel_size == self.stride
            and not any(self.padding)
            and all(
                n >= out * k and (not halved or out % 2 == 0 or (k % 2 == 0 and n == out * k))
                for halved, n, out, k in axes
            )
            and (self.divisor_override is None or not any(out % 2 for out in need))
        )
