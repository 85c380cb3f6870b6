"""One convolution into the low branch instead of two, for runtimes that start many small ones slowly.

The two paths into the low branch of an octave convolution have one geometry, and their sum is one
convolution of both inputs, one behind the other::

    high_to_low(P X_high) + low_to_low(X_low) = [high_to_low, low_to_low](concat(P X_high, X_low))

Low maps are small: on one core, compiled by inductor, starting a convolution of theirs and adding its result
took as long as copying its input. onnxruntime fuses the addition, and has no use for this.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octify.compat import forward_hooks, forward_pre_hooks
from octify.kernels.taps import PathName
from octify.nn.conv import OctaveConv
from octify.nn.eager import is_bare
from octify.nn.functional import Pair, output_sizes, pool


class OneLowConv(nn.Module):
    """``OctaveConv2d`` with one convolution into its low branch; shapes as there, both branches present."""

    def __init__(self, octave: OctaveConv) -> None:
        super().__init__()
        high, low = octave.high_to_low, octave.low_to_low
        assert isinstance(high, nn.Conv2d) and isinstance(low, nn.Conv2d)
        self.octave = octave
        self.low = _side_by_side(high, low)
        octave.high_to_low = octave.low_to_low = None  # their weights are not kept twice

    def forward(self, high: Tensor, low: Tensor) -> Pair:
        size, high_out, low_out = output_sizes(high, low, self.octave.axes)
        both = torch.cat([pool(high), low], dim=1)
        y = self.octave.convolve(PathName.LOW_TO_LOW, self.low, both, low_out)
        return self.octave.branch("high", high, low, size, high_out), y


def merge_low_paths(module: nn.Module) -> nn.Module:
    """``module`` with a ``OneLowConv`` wherever an octave convolution allows it, in place."""
    merged: dict[OctaveConv, OneLowConv] = {}  # one layer may have several paths
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if path and isinstance(layer, OctaveConv) and (layer in merged or _allows(layer)):
            if layer not in merged:
                merged[layer] = OneLowConv(layer)
            module.set_submodule(path, merged[layer])
    return module


def _allows(octave: OctaveConv) -> bool:
    high, low = octave.high_to_low, octave.low_to_low
    if not (isinstance(high, nn.Conv2d) and isinstance(low, nn.Conv2d) and is_bare(high) and is_bare(low)):
        return False
    if forward_hooks(octave) or forward_pre_hooks(octave) or high.groups != 1 or low.groups != 1:
        return False
    a, b = octave.recipes[PathName.HIGH_TO_LOW], octave.recipes[PathName.LOW_TO_LOW]
    same = (a.kernel_size, a.strides, a.dilations, a.starts) == (
        b.kernel_size,
        b.strides,
        b.dilations,
        b.starts,
    )
    return (
        same
        and high.padding == low.padding
        and (a.before, a.after, b.before, b.after) == ("pool", "", "", "")
    )


def _side_by_side(a: nn.Conv2d, b: nn.Conv2d) -> nn.Conv2d:
    """Build the convolution of ``concat(x, y)`` that equals ``a(x) + b(y)``."""
    biases = [conv.bias.detach() for conv in (a, b) if conv.bias is not None]
    joint = nn.Conv2d(
        a.in_channels + b.in_channels,
        a.out_channels,
        b.kernel_size,  # type: ignore[arg-type]
        b.stride,  # type: ignore[arg-type]
        b.padding,  # type: ignore[arg-type]
        b.dilation,  # type: ignore[arg-type]
        bias=bool(biases),
        device="meta",  # no memory and no random numbers for weights that are replaced next
    )
    weight = torch.cat([a.weight.detach(), b.weight.detach()], dim=1)
    joint.weight = nn.Parameter(weight, requires_grad=b.weight.requires_grad)
    if biases:
        joint.bias = nn.Parameter(sum(biases[1:], biases[0]), requires_grad=b.weight.requires_grad)
    return joint.train(b.training)
