"""EvoNorm-S over an octave value (Liu et al. 2020, arXiv 2004.02967, table 2): sample statistics by groups.

``y = f(x) / s * weight + bias`` with ``s`` the deviation, or the root mean square, of a group of
channels over all positions, and ``f`` elementwise: ``x sigmoid(v x)``, or an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from octify.nn.affine import Branch, OctaveNorm, per_channel, shifted, weighted, wide
from octify.nn.functional import Pair, each
from octify.nn.group_norm import ChannelGroups, group_moments, group_square_mean

Statistic = Literal["deviation", "root mean square"]


class OctaveEvoNorm(OctaveNorm):
    """High (N, C - L, *size) and low (N, L, *low_size(size)) keep their shapes. Exact at every size.

    Parameters
    ----------
    module:
        The EvoNorm over all C channels: ``groups``, ``eps``, ``weight``, ``bias``, and ``v`` (C,) or
        ``act`` for ``f``.
    low:
        The L low channels.
    statistic:
        Statistic that it divides by.
    """

    def __init__(self, module: nn.Module, low: Sequence[int], statistic: Statistic = "deviation") -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        super().__init__(module, weight.numel(), low, more=("v",))
        self.eps = float(module.eps)  # type: ignore[arg-type]
        self.statistic = statistic
        self.groups = ChannelGroups(weight.numel(), low, int(module.groups))  # type: ignore[arg-type]

    def forward(self, high: Tensor | None, low: Tensor | None) -> Pair:
        maps = each((high, low), wide)
        if self.statistic == "deviation":
            _, squares = group_moments(self.groups, maps)
        else:
            squares = group_square_mean(self.groups, maps)
        factors = each(squares, lambda square: torch.rsqrt(square + self.eps))
        y_high, y_low = (
            None if x is None or factor is None else self._branch(branch, x, factor)
            for branch, x, factor in zip((self.high, self.low), (high, low), factors, strict=True)
        )
        return y_high, y_low

    def _branch(self, branch: Branch | None, x: Tensor, factor: Tensor) -> Tensor:
        assert branch is not None
        v = branch.v
        gated = branch(x) if v is None else x * torch.sigmoid(x * per_channel(v, x.ndim))
        y = shifted(gated * weighted(factor, branch.weight), branch.bias)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.statistic}, eps={self.eps}"
