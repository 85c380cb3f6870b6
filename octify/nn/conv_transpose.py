"""Octave transposed convolution: see ``octify.kernels.transposed`` for its four kernels.

    Y_high = high_to_high(X_high) + low_to_high(X_low)
    Y_low  = high_to_low(X_high) + low_to_low(X_low)

The paths are plain ``nn.Conv*d`` and ``nn.ConvTranspose*d`` modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from octify.checks.words import require_known
from octify.kernels.taps import Axis, Exchange, Path, PathName, Scheme
from octify.kernels.transposed import TransposedAxis, transposed_path
from octify.nn.conv import NOMINAL_LENGTH, OctaveConv, convolved_to_size, grouped_last
from octify.nn.functional import crop, low_size, octave_axes
from octify.nn.padded import padded_conv

_TRANSPOSED: dict[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


def transposed_axes(conv: nn.Module) -> tuple[TransposedAxis, ...]:
    """The geometry of an ``nn.ConvTranspose*d``, one axis per spatial dimension."""
    assert isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    settings = zip(
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.output_padding,
        conv.dilation,
        octave_axes(len(conv.kernel_size)),
        strict=True,
    )
    return tuple(TransposedAxis(k, s, int(p), int(p) - out, d, half) for k, s, p, out, d, half in settings)


def _as_convolution(conv: nn.Module) -> nn.Module:
    """A carrier of the weight as (O, I / groups, *taps), the order of ``nn.Conv*d``; not to be run."""
    assert isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    weight = conv.weight.detach()
    turned = weight.reshape(conv.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), conv.bias.requires_grad)
    carrier = padded_conv(
        nn.Parameter(turned, conv.weight.requires_grad),
        bias,
        conv.stride,
        conv.dilation,
        conv.groups,
        ((0, 0),) * len(conv.kernel_size),
    )
    return carrier.train(conv.training)


class OctaveConvTranspose(OctaveConv):
    """Octave transposed convolution over 1, 2 or 3 spatial dimensions (of three, the last two are halved).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation:
        As for ``nn.ConvTranspose*d``.
    alpha_in, alpha_out:
        Share of low-frequency channels, ``int(alpha * channels)`` of them, last. 0 is dense.
    kernels:
        Both schemes compute the same, which is exact.

    Shapes: high (N, I - Li, *size) and low (N, Li, *ceil(size / 2)); a branch without channels is None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        kernels: Scheme = "paper",
    ) -> None:
        nn.Module.__init__(self)
        dense = _TRANSPOSED[self.spatial_dims](
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation
        )
        low_in = grouped_last(in_channels, alpha_in, groups)
        low_out = grouped_last(out_channels, alpha_out, groups) if groups < in_channels else low_in
        self._build(dense, low_in, low_out, kernels)

    def _build(
        self,
        conv: nn.Module,
        low_in: Sequence[int],
        low_out: Sequence[int],
        kernels: Scheme,
        exchange: Exchange = "full",
    ) -> None:
        self._geometry = transposed_axes(conv)
        require_known("exchange", exchange, Exchange)  # of any choice: it is no 1x1 convolution
        super()._build(_as_convolution(conv), low_in, low_out, kernels, "full")

    def _axes(self, conv: nn.Module) -> tuple[Axis, ...]:
        return self._geometry

    def _recipe(self, name: PathName) -> Path:
        return transposed_path(name, self._geometry)

    def _run_module(self, conv: nn.Module, name: PathName, *args: Any) -> nn.Module:
        layer = super()._run_module(conv, name, *args)
        recipe = self.recipes[name]
        if recipe.transposed:
            layer.output_padding = self._output_padding(recipe, name)  # type: ignore[assignment]
        return layer

    def _output_padding(self, recipe: Path, name: PathName) -> tuple[int, ...]:
        """Samples that the path's transposed convolution lacks on the right at even sizes."""
        size = (NOMINAL_LENGTH,) * len(self.axes)
        out = tuple(axis.output_length(n) for axis, n in zip(self.axes, size, strict=True))
        source_size = low_size(size) if name.source == "low" else size
        target_size = (
            low_size(out) if recipe.after == "up" or (name.target == "low" and not recipe.after) else out
        )
        lengths = zip(source_size, target_size, recipe.strides, strict=True)
        return tuple(
            min(max(0, need - _spread(recipe, axis, n)), stride - 1)
            for axis, (n, need, stride) in enumerate(lengths)
        )

    def convolve(self, name: PathName, conv: nn.Module, x: Tensor, need: Sequence[int]) -> Tensor:
        """Like ``OctaveConv.convolve``: zeros after ``x`` where its output would be shorter than ``need``."""
        recipe = self.recipes[name]
        if not recipe.transposed:
            return convolved_to_size(conv, x, recipe, need)  # type: ignore[arg-type]
        extra: list[int] = []
        own = self._output_padding(recipe, name)
        for axis, (n, length) in enumerate(zip(x.shape[2:], need, strict=True)):
            lacking = length - _spread(recipe, axis, n) - own[axis]
            extra = [0, max(0, -(-lacking // recipe.strides[axis])), *extra]
        if any(extra):
            x = F.pad(x, extra)
        return crop(conv(x), need)


def _spread(recipe: Path, axis: int, n: int) -> int:
    """Output samples of a transposed path that loses ``-start`` of them on either side."""
    reach = recipe.dilations[axis] * (recipe.kernel_size[axis] - 1)
    return (n - 1) * recipe.strides[axis] + reach + 1 + 2 * recipe.starts[axis]


class OctaveConvTranspose1d(OctaveConvTranspose):
    """Octave transposed convolution over sequences (N, C, L)."""

    spatial_dims: ClassVar[int] = 1


class OctaveConvTranspose2d(OctaveConvTranspose):
    """Octave transposed convolution over images (N, C, H, W)."""

    spatial_dims: ClassVar[int] = 2


class OctaveConvTranspose3d(OctaveConvTranspose):
    """Octave transposed convolution over videos (N, C, T, H, W); time keeps its resolution."""

    spatial_dims: ClassVar[int] = 3


OCTAVE_CONV_TRANSPOSE: dict[int, type[OctaveConvTranspose]] = {
    1: OctaveConvTranspose1d,
    2: OctaveConvTranspose2d,
    3: OctaveConvTranspose3d,
}
