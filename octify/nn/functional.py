"""Pooling, upsampling and size bookkeeping between the two resolutions.

Sizes are the spatial sizes of a tensor (N, C, *size). The low-frequency branch of a map of
``n`` samples stores ``ceil(n / 2)``. A map of one sample stays one sample: it is its own mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from octify.kernels.taps import Axis
from octify.nn.eager import pooled

Pair = tuple[Tensor | None, Tensor | None]

_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def octave_axes(spatial_dims: int) -> tuple[bool, ...]:
    """Flags of the spatial axes that the low branch halves: both of an image, the last two of a video."""
    return {1: (True,), 2: (True, True), 3: (False, True, True)}[spatial_dims]


def low_size(size: Sequence[int]) -> tuple[int, ...]:
    """Spatial size of the low branch of a map of spatial ``size``."""
    octave = octave_axes(len(size))
    return tuple((n + 1) // 2 if halved else n for n, halved in zip(size, octave, strict=True))


def pool(x: Tensor) -> Tensor:
    """2x average pooling ``P``: (N, C, *size) -> (N, C, *low_size(size)).

    At an odd end the last sample is the mean of what is there, not of padding. Means of integers
    (indices, masks) are fractions, in the default type.
    """
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    fast = pooled(x)
    if fast is not None:
        return fast
    size = x.shape[2:]
    octave = octave_axes(len(size))
    window = [2 if halved and n > 1 else 1 for n, halved in zip(size, octave, strict=True)]
    if all(n == 1 for n in window):
        return x
    odd = any(n % w for n, w in zip(size, window, strict=True))
    if len(size) == 1:
        return F.avg_pool1d(x, window[0], window[0], ceil_mode=odd, count_include_pad=False)
    return _AVG_POOL[len(size)](x, window, window, ceil_mode=odd, count_include_pad=False)


def upsample(low: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest-neighbour upsampling ``U``: (N, C, *low_size(size)) -> (N, C, *size).

    The scale is the constant 2 and an odd end is cropped, so an exported graph never has to
    compute a size.
    """
    have = low.shape[2:]
    factors = [1.0 if n == length else 2.0 for n, length in zip(have, size, strict=True)]
    if all(factor == 1.0 for factor in factors):
        return low
    y = F.interpolate(low, scale_factor=factors, mode="nearest")
    return crop(y, size)


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first ``size`` samples along each spatial axis."""
    for dim, length in enumerate(size, start=2):
        if x.shape[dim] != length:
            x = x.narrow(dim, 0, length)
    return x


def output_sizes(
    high: Tensor | None, low: Tensor | None, axes: Sequence[Axis]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Sizes for a convolution with ``axes`` over an octave value.

    Returns
    -------
    The size of the high input, of the high output and of the low output. With no high input
    the map is taken to be twice the low one (an odd size cannot be told from a low branch).
    """
    size = dense_size(high, low)
    out = tuple(axis.output_length(n) for axis, n in zip(axes, size, strict=True))
    return size, out, low_size(out)


def project(x: Tensor) -> Tensor:
    """``Pi = U P``: every 2x2 block replaced by its mean; shape (N, C, *size) kept."""
    return upsample(pool(x), x.shape[2:])


def each(branches: Pair, apply: Callable[[Tensor], Tensor]) -> Pair:
    """``apply`` on the branches that exist."""
    high, low = branches
    return None if high is None else apply(high), None if low is None else apply(low)


def position_mean(x: Tensor, size: Sequence[int]) -> Tensor:
    """Mean over all positions of the map of spatial ``size`` that a branch stands for.

    ``x`` (N, C, *size) or (N, C, *low_size(size)) -> (N, C, 1, ...). A low sample stands for a
    whole block; at an odd end the last one stands for what is there of it.
    """
    if all(n in (have, 2 * have) for n, have in zip(size, x.shape[2:], strict=True)):
        return x.mean(tuple(range(2, x.ndim)), keepdim=True)
    for dim, n in enumerate(size, start=2):
        have = x.shape[dim]
        if n in (have, 2 * have):
            x = x.mean(dim, keepdim=True)
        else:
            x = (2 * x.sum(dim, keepdim=True) - x.narrow(dim, have - 1, 1)) / n
    return x


def dense_size(high: Tensor | None, low: Tensor | None) -> tuple[int, ...]:
    """Spatial size of the map an octave value stands for; without a high branch, twice the low one."""
    if high is not None:
        return tuple(high.shape[2:])
    assert low is not None, "an octave value has at least one branch"
    octave = octave_axes(low.ndim - 2)
    return tuple(2 * n if halved and n > 1 else n for n, halved in zip(low.shape[2:], octave, strict=True))


def dense_shape(high: Tensor | None, low: Tensor | None) -> tuple[int, ...]:
    """Shape (N, C, *size) of the dense value that an octave value stands for."""
    some = high if high is not None else low
    assert some is not None, "an octave value has at least one branch"
    channels = sum(x.shape[1] for x in (high, low) if x is not None)
    return (some.shape[0], channels, *dense_size(high, low))


def upsample_nearest(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Nearest-neighbour upsampling by whole factors, one for each spatial axis."""
    return F.interpolate(x, scale_factor=[float(f) for f in factors], mode="nearest")
