"""Global response normalisation (Woo et al. 2023, "ConvNeXt V2", arXiv 2301.00808, section 3.2).

``y = x + weight * x * n + bias``, ``n_c = g_c / (mean_c g_c + eps)``, where ``g_c`` is the length
of channel ``c`` over all positions. ``g`` and ``n`` are numbers per sample and channel: each branch
is scaled as it is stored, and a low sample counts in ``g`` as often as the positions it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octify.nn.affine import OctaveNorm, shifted, weighted, wide
from octify.nn.functional import Pair, dense_size, each, position_mean


def position_norm(x: Tensor, size: Sequence[int]) -> Tensor:
    """Euclidean length over all positions of the map of spatial ``size`` that a branch stands for.

    ``x`` (N, C, *size) or (N, C, *low_size(size)) -> (N, C, 1, ...).
    """
    square = position_mean(x * x, size) * math.prod(size)
    # Bounded before the root, whose derivative at 0 (a channel that a ReLU has emptied) is infinite.
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()


class OctaveGlobalResponseNorm(OctaveNorm):
    """Global response normalisation of an octave value.

    High (N, C - L, *size) and low (N, L, *low_size(size)) keep their shapes. Exact at every size.

    Parameters
    ----------
    module:
        The norm over all C channels: ``eps``, ``weight`` and ``bias`` (C,).
    low:
        The L low channels.
    """

    def __init__(self, module: nn.Module, low: Sequence[int]) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        super().__init__(module, weight.numel(), low)
        self.eps = float(module.eps)  # type: ignore[arg-type]

    def normalised(self, high: Tensor | None, low: Tensor | None) -> Pair:
        maps = each((high, low), wide)
        size = dense_size(*maps)
        lengths = each(maps, lambda x: position_norm(x, size))
        sums = [x.sum(1, keepdim=True) for x in lengths if x is not None]
        mean = sum(sums[1:], sums[0]) / sum(x.shape[1] for x in lengths if x is not None)
        numbers = each(lengths, lambda x: x / (mean + self.eps))
        weights, biases = self.parameter_pair("weight"), self.parameter_pair("bias")
        y_high, y_low = (
            None if x is None or n is None else _scaled(x, n, w, b)
            for x, n, w, b in zip((high, low), numbers, weights, biases, strict=True)
        )
        return y_high, y_low

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


def _scaled(x: Tensor, number: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return shifted(x * (1 + weighted(number, weight)), bias).to(x.dtype)
