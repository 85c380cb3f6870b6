"""Resizing and adaptive pooling of octave values.

Interpolation and means work on one axis at a time, so their low branch does too: along each axis
the low input is upsampled, resized as the original does, and pooled, ``P R U`` with ``R`` the
resize of that axis. That is exact for every mode and factor, and never holds more than one axis at
full resolution.

Twofold linear interpolation has a short form. Its taps are 1/4 and 3/4, so along an axis::

    (P R U u)[2 q] = (u[q-1] + 7 u[q]) / 8        (P R U u)[2 q + 1] = (7 u[q] + u[q+1]) / 8

which is the mean of the linear and of the nearest interpolation of ``u``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from octify.kernels.taps import Scheme
from octify.nn.functional import (
    crop,
    dense_size,
    low_size,
    octave_axes,
    pool,
    upsample,
    upsample_nearest,
)
from octify.nn.reduction import low_reduced
from octify.nn.tellable import require_tellable

_NEAREST = ("nearest", "nearest-exact")
_LINEAR = ("linear", "bilinear", "trilinear")
_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE: dict[str, dict[int, Any]] = {
    "mean": {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d},
    "amax": {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d},
}


def along_axis(low: Tensor, axis: int, length: int, step: Callable[[Tensor], Tensor]) -> Tensor:
    """``P step U`` along one halved spatial axis of ``length`` samples at full resolution."""
    size = [*low.shape[2:]]
    size[axis] = length
    return _pool_axis(step(upsample(low, size)), axis)


def _pool_axis(x: Tensor, axis: int) -> Tensor:
    n = x.shape[axis + 2]
    if n == 1:
        return x
    window = [2 if i == axis else 1 for i in range(x.ndim - 2)]
    y: Tensor = _AVG[x.ndim - 2](x, window, window, ceil_mode=bool(n % 2), count_include_pad=False)
    return y


@dataclass(frozen=True)
class Resize:
    """The settings of ``torch.nn.functional.interpolate``; ``size`` or ``scale_factor`` is given."""

    size: tuple[int, ...] | None
    scale: tuple[float, ...] | None
    mode: str
    align_corners: bool | None
    recompute_scale: bool | None
    antialias: bool

    @classmethod
    def of(
        cls,
        dims: int,
        size: int | Sequence[int] | None,
        scale_factor: float | Sequence[float] | None,
        mode: str,
        align_corners: bool | None,
        recompute_scale_factor: bool | None,
        antialias: bool,
    ) -> Resize:
        """The settings with one entry for each of ``dims`` axes."""
        sizes = (size,) * dims if isinstance(size, int) else None if size is None else tuple(size)
        if scale_factor is None or sizes is not None:
            scales = None
        else:
            each: Any = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * dims
            scales = tuple(float(s) for s in each)
        return cls(sizes, scales, mode, align_corners, recompute_scale_factor, antialias)

    def lengths(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the result for an input of ``size``."""
        if self.size is not None:
            return self.size
        assert self.scale is not None, "a resize has a size or a scale"
        return tuple(int(n * s) for n, s in zip(size, self.scale, strict=True))

    def factors(self, size: Sequence[int]) -> list[int] | None:
        """Whole factors, where nearest interpolation of ``size`` repeats every sample alike."""
        out = self.lengths(size)
        exact = self.scale is None or all(s == int(s) for s in self.scale)
        whole = self.mode in _NEAREST and exact and all(m % n == 0 for n, m in zip(size, out, strict=True))
        return [m // n for n, m in zip(size, out, strict=True)] if whole else None

    def apply(self, x: Tensor, only: int | None = None) -> Tensor:
        """``x`` resized along every axis, or along ``only`` one."""
        size, scale = self.size, self.scale
        if only is not None:
            if size is not None:
                size = tuple(
                    m if i == only else n for i, (n, m) in enumerate(zip(x.shape[2:], size, strict=True))
                )
            if scale is not None:
                scale = tuple(s if i == only else 1.0 for i, s in enumerate(scale))
        return F.interpolate(
            x, size, scale, self.mode, self.align_corners, self.recompute_scale, self.antialias
        )

    def doubles(self, low: int, length: int, out: int) -> bool:
        """Return whether an axis has the short form: linear, by a factor of 2, in whole blocks."""
        linear = self.mode in _LINEAR and not self.align_corners and not self.antialias
        return linear and out == 2 * length and length == 2 * low


def resized(x: Tensor, *settings: Any) -> Tensor:
    """``torch.nn.functional.interpolate(x, *settings)``, nearest by whole factors with a constant scale."""
    resize = Resize.of(x.ndim - 2, *settings)
    factors = resize.factors(x.shape[2:])
    return resize.apply(x) if factors is None else upsample_nearest(x, factors)


def low_resized(low: Tensor, high: Tensor | None, scheme: Scheme, *settings: Any) -> Tensor:
    """The low branch (N, L, *low_size) of a resized map; ``settings`` are those of ``interpolate``.

    ``paper`` resizes the low branch to the size that it must have; ``exact`` is ``P R U``.
    """
    size = dense_size(high, low)
    resize = Resize.of(len(size), *settings)
    out = resize.lengths(size)
    require_tellable(high, out)
    factors = resize.factors(size)
    if factors is not None:
        return crop(upsample_nearest(low, factors), low_size(out))
    if scheme == "paper":
        direct = Resize(low_size(out), None, resize.mode, resize.align_corners, None, resize.antialias)
        return direct.apply(low)
    if resize.antialias:  # one axis at a time, PyTorch's kernels do not give quite the same
        return pool(resize.apply(upsample(low, size)))
    for axis, halved in enumerate(octave_axes(len(size))):
        if not halved:
            low = resize.apply(low, axis)
        elif resize.doubles(low.shape[axis + 2], size[axis], out[axis]):
            low = _doubled(low, axis, resize)
        else:
            low = along_axis(low, axis, size[axis], partial(resize.apply, only=axis))
    return low


def _doubled(low: Tensor, axis: int, resize: Resize) -> Tensor:
    factors = [2.0 if i == axis else 1.0 for i in range(low.ndim - 2)]
    linear = F.interpolate(low, scale_factor=factors, mode=resize.mode, align_corners=False)
    nearest = F.interpolate(low, scale_factor=factors, mode="nearest")
    return (linear + nearest) * 0.5


def low_adaptive(low: Tensor, high: Tensor | None, kind: Any, output_size: Any) -> Tensor:
    """The low branch of adaptive pooling (``kind``: mean or amax) to ``output_size``.

    An axis that keeps its length is left alone and one that is pooled to one sample is reduced.
    Means over equal windows that pair up commute with ``P``; everything else is ``P R U``.
    """
    size = dense_size(high, low)
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * len(size)
    out = [n if length is None else int(length) for n, length in zip(size, sizes, strict=True)]
    require_tellable(high, out)
    single = [axis + 2 for axis, (n, length) in enumerate(zip(size, out, strict=True)) if length == 1 < n]
    if single:
        low = low_reduced(low, high, kind, single)
    left = [axis for axis, (n, length) in enumerate(zip(size, out, strict=True)) if length not in (1, n)]
    if kind == "mean":
        for axis in left:
            low = _mean_axis(low, axis, size[axis], out[axis])
        return low
    if not left:
        return low
    # Maxima along one axis do not commute with means along another: all at once.
    octave = octave_axes(len(size))
    wide = upsample(low, [size[a] if a in left and octave[a] else n for a, n in enumerate(low.shape[2:])])
    pooled: Tensor = _ADAPTIVE[kind][len(size)](
        wide, [out[a] if a in left else n for a, n in enumerate(wide.shape[2:])]
    )
    for axis in left:
        pooled = _pool_axis(pooled, axis) if octave[axis] else pooled
    return pooled


def _mean_axis(low: Tensor, axis: int, n: int, out: int) -> Tensor:
    """Adaptive average pooling of an axis from ``n`` to ``out`` samples, low branch to low branch."""
    if not octave_axes(low.ndim - 2)[axis]:
        return _adaptive_axis(low, axis, out)
    if n % 2 == 0 and n % out == 0 and out % 2 == 0:
        return _adaptive_axis(low, axis, out // 2)
    return along_axis(low, axis, n, partial(_adaptive_axis, axis=axis, length=out))


def _adaptive_axis(x: Tensor, axis: int, length: int) -> Tensor:
    size = [length if i == axis else n for i, n in enumerate(x.shape[2:])]
    y: Tensor = _ADAPTIVE["mean"][x.ndim - 2](x, size)
    return y


class AsWritten(nn.Module):
    """A parameter-free layer that works in space, on an octave value.

    ``exact``: the low branch is ``P(layer(U u))``. ``paper``: the layer on each branch, cropped
    to the size that the low branch must have.
    """

    def __init__(self, layer: nn.Module, scheme: Scheme) -> None:
        super().__init__()
        self.layer = layer
        self.scheme = scheme

    def forward(self, high: Tensor | None, low: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        y_high = None if high is None else self.layer(high)
        if low is None:
            return y_high, None
        if self.scheme == "paper" and y_high is not None and self._holds_a_window(low):
            direct: Tensor = self.layer(low)
            target_size = low_size(y_high.shape[2:])
            if all(have >= n for have, n in zip(direct.shape[2:], target_size, strict=True)):
                return y_high, crop(direct, target_size)
        y_low = self.layer(upsample(low, dense_size(high, low)))
        require_tellable(high, y_low.shape[2:])
        return y_high, pool(y_low)

    def _holds_a_window(self, low: Tensor) -> bool:
        """Return whether a map is large enough for the layer, which may pad by reflection."""
        names = ("kernel_size", "k", "filt_size")
        kernel: Any = next((getattr(self.layer, name) for name in names if hasattr(self.layer, name)), 1)
        axes = kernel if isinstance(kernel, (tuple, list)) else (kernel,) * (low.ndim - 2)
        return all(n >= int(k) for n, k in zip(low.shape[2:], axes, strict=True))
