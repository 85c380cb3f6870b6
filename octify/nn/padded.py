"""Convolutions with explicit padding: any amount on either side, zeros or a padding mode.

``PaddedConv`` is the dense form. ``OctavePadded`` is the octave form for the modes ``replicate``,
``reflect`` and ``circular`` (zeros are ``OctaveConv``'s own). Each path pads its own input, since
padding a map that is constant on pairs is again a padding of the low map. With ``x = U u``::

    replicate  x[-i] = x[0]      U of u replicated by ceil(p / 2)
    circular   x[-i] = x[n - i]  U of u wrapped by ceil(p / 2), n even
    reflect    x[-i] = x[i]      p = 1: x[1] = u[0], so u is replicated; p > 1: pairs are torn apart,
                                 so the exact scheme pads U u at full resolution
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from octify.compat import reversed_pads, set_reversed_pads
from octify.kernels.convolution import path, unpooled
from octify.kernels.taps import Axis, Path, PathName
from octify.nn.conv import OctaveConv, OctaveConv1d, OctaveConv2d, OctaveConv3d
from octify.nn.functional import crop

Pads = tuple[tuple[int, int], ...]
"""(left, right) of every spatial axis, first axis first."""


def flat_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """In the order of ``F.pad``: the last axis first."""
    return [amount for left_right in reversed(pads) for amount in left_right]


class _Padded:
    """Extension of ``nn.Conv*d`` by explicit pads."""

    padding_mode: Any
    single: tuple[int, ...] = ()

    def set_pads(self, pads: Pads, mode: str, same: bool) -> None:
        """Pad every axis by (left, right). ``same``: the output has ceil(n / stride) samples at any size."""
        set_reversed_pads(self, flat_pads(pads))
        self.padding_mode = mode
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        conv: Any = self
        return self._conv_forward(x, conv.weight, conv.bias)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, reversed_pads(self), mode=mode)
        convolve = _FUNCTION[weight.ndim - 2]
        conv: Any = self
        y: Tensor = convolve(x, weight, bias, conv.stride, 0, conv.dilation, conv.groups)
        return y


_FUNCTION: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class PaddedConv1d(_Padded, nn.Conv1d):
    """``nn.Conv1d`` with explicit pads."""


class PaddedConv2d(_Padded, nn.Conv2d):
    """``nn.Conv2d`` with explicit pads."""


class PaddedConv3d(_Padded, nn.Conv3d):
    """``nn.Conv3d`` with explicit pads."""


_PADDED: dict[int, Any] = {1: PaddedConv1d, 2: PaddedConv2d, 3: PaddedConv3d}


def padded_conv(
    weight: nn.Parameter,
    bias: nn.Parameter | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pads: Pads,
    mode: str = "zeros",
    same: bool = False,
) -> PaddedConv1d | PaddedConv2d | PaddedConv3d:
    """The convolution of ``weight`` (O, I / groups, *taps) after padding by ``pads``.

    ``mode`` is ``nn.Conv*d``'s ``padding_mode``. With ``same`` the pads are those of one input size,
    and at another the right ones are what gives ceil(n / stride) outputs.
    """
    kernel = tuple(weight.shape[2:])
    conv: Any = _PADDED[len(kernel)](
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        tuple(stride),
        dilation=tuple(dilation),
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    conv.weight = weight
    conv.bias = bias
    conv.set_pads(pads, mode, same)
    result: PaddedConv1d | PaddedConv2d | PaddedConv3d = conv
    return result


class _OctavePadded:
    """Extension of ``OctaveConv`` for ``OctavePadded*d``."""

    padding_mode: str
    axes: tuple[Axis, ...]
    kernels: Any
    recipes: dict[PathName, Path]

    def _build(self, conv: nn.Module, *args: Any) -> None:
        self.padding_mode = str(conv.padding_mode)
        super()._build(conv, *args)  # type: ignore[misc]

    @property
    def _torn(self) -> bool:
        """Return whether the padding tears pairs of the low map apart."""
        return self.padding_mode == "reflect" and any(
            axis.octave and max(axis.pad_left, axis.pad_right) > 1 for axis in self.axes
        )

    def _recipe(self, name: PathName) -> Path:
        if self.kernels == "paper" or name == PathName.HIGH_TO_HIGH:
            return path(name, self.axes, self.kernels)
        if self._torn:
            return unpooled(name, self.axes, up=True)
        return path(name, self.axes, "exact") if name == PathName.LOW_TO_HIGH else unpooled(name, self.axes)

    def _padding(self, recipe: Path, name: PathName) -> tuple[int, ...]:
        return (0,) * len(self.axes)

    def convolve(self, name: PathName, conv: nn.Module, x: Tensor, need: Sequence[int]) -> Tensor:
        """Like ``OctaveConv.convolve``, with the padding mode of the input's resolution."""
        recipe = self.recipes[name]
        if recipe.transposed:
            return self._transposed(name, conv, x, need)
        halved = recipe.before == "pool" or (name.source == "low" and recipe.before != "up")
        return self._fitted(name, conv, x, need, halved)

    def _modes(self, halved: bool) -> list[str]:
        """The padding mode of every axis of a path's input."""
        paired = halved and self.padding_mode == "reflect" and not self._torn
        return ["replicate" if paired and axis.octave else self.padding_mode for axis in self.axes]

    def _fitted(
        self, name: PathName, conv: nn.Module, x: Tensor, need: Sequence[int], halved: bool
    ) -> Tensor:
        recipe = self.recipes[name]
        pads = []
        for axis, (n, length) in enumerate(zip(x.shape[2:], need, strict=True)):
            reach = recipe.dilations[axis] * (recipe.kernel_size[axis] - 1)
            left = -recipe.starts[axis]
            pads.append((left, (length - 1) * recipe.strides[axis] + reach + 1 - n - left))
        return crop(conv(_padded(x, pads, self._modes(halved))), need)

    def _transposed(self, name: PathName, conv: nn.Module, x: Tensor, need: Sequence[int]) -> Tensor:
        """``C U`` at stride 1: kernel element ``m`` of low sample ``j`` lands on ``2 j + start + m``."""
        recipe = self.recipes[name]
        pads = []
        for axis, (n, length) in enumerate(zip(x.shape[2:], need, strict=True)):
            first, last = recipe.starts[axis], recipe.starts[axis] + recipe.kernel_size[axis] - 1
            left, right = last // 2, (length - 1 - first) // 2 - (n - 1)
            pads.append((max(0, left), max(0, right)))
        y: Tensor = conv(_padded(x, pads, self._modes(True)))
        for axis, length in enumerate(need):
            y = y.narrow(axis + 2, 2 * pads[axis][0] - recipe.starts[axis], length)
        return y


def _padded(x: Tensor, pads: Sequence[tuple[int, int]], modes: Sequence[str]) -> Tensor:
    """``x`` padded axis by axis. A negative amount crops on the left, and nothing on the right."""
    for axis, ((left, right), mode) in enumerate(zip(pads, modes, strict=True)):
        n, amounts = x.shape[axis + 2], (max(0, left), max(0, right))
        if any(amounts):
            # A map halved by the low branch may be too small for the mode; its border is repeated then.
            most = {"reflect": n - 1, "circular": n}.get(mode, max(amounts))
            each = [(0, 0)] * len(pads)
            each[axis] = amounts
            x = F.pad(x, flat_pads(each), mode=mode if max(amounts) <= most else "replicate")
        if left < 0:
            x = x.narrow(axis + 2, -left, x.shape[axis + 2] + left)
    return x


class OctavePadded1d(_OctavePadded, OctaveConv1d):
    """``OctaveConv1d`` of a convolution whose ``padding_mode`` is not zeros."""

    spatial_dims: ClassVar[int] = 1


class OctavePadded2d(_OctavePadded, OctaveConv2d):
    """``OctaveConv2d`` of a convolution whose ``padding_mode`` is not zeros."""

    spatial_dims: ClassVar[int] = 2


class OctavePadded3d(_OctavePadded, OctaveConv3d):
    """``OctaveConv3d`` of a convolution whose ``padding_mode`` is not zeros."""

    spatial_dims: ClassVar[int] = 3


OCTAVE_PADDED: dict[int, type[OctaveConv]] = {1: OctavePadded1d, 2: OctavePadded2d, 3: OctavePadded3d}
