"""Norms whose statistics are numbers per sample and group of channels.

Normalising by such a number commutes with ``P`` and ``U``, so each branch is normalised as it is
stored; only the statistics are of both. With ``mean_c`` over the positions of channel ``c``, in
which a low sample counts as often as the positions it stands for, and ``mean_g`` over the
channels of a group,

    m = mean_g mean_c x        v = mean_g mean_c (x - m)^2

The mean is subtracted first: it may be large against the deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octify.errors import PlanError
from octify.nn.affine import NEITHER, OctaveNorm, shifted, weighted, wide
from octify.nn.channels import Gather, split_indices
from octify.nn.functional import Pair, dense_size, each, position_mean


class ChannelGroups(nn.Module):
    """Groups of consecutive channels, any of which may be low.

    Parameters
    ----------
    channels:
        C.
    low:
        The low channels; the groups need not have equally many.
    groups:
        G, a divisor of C.
    """

    group_of_high: Tensor
    group_of_low: Tensor

    def __init__(self, channels: int, low: Sequence[int], groups: int) -> None:
        super().__init__()
        if channels % groups:
            raise PlanError(f"{channels} channels do not fall into {groups} equal groups")
        self.groups = groups
        self.size = channels // groups
        high_channels, low_channels = split_indices(channels, low)
        place = {channel: position for position, channel in enumerate(high_channels + low_channels)}
        self.order = Gather([place[channel] for channel in range(channels)])
        for name, members in (("group_of_high", high_channels), ("group_of_low", low_channels)):
            self.register_buffer(name, torch.tensor([c // self.size for c in members]), persistent=False)

    def mean(self, numbers: Pair) -> Pair:
        """Means over groups, of one number per channel of each branch (N, C_b, 1, ...).

        They come back as they came, the group's mean for every channel; with one group as (N, 1, 1, ...).
        """
        present = [x for x in numbers if x is not None]
        if self.groups == 1:
            sums = [x.sum(1, keepdim=True) for x in present]
            mean = sum(sums[1:], sums[0]) / self.size
            return each(numbers, lambda _: mean)
        joined: Tensor = self.order(present[0] if len(present) == 1 else torch.cat(present, 1))
        grouped = joined.reshape(joined.shape[0], self.groups, self.size, *joined.shape[2:])
        means = grouped.mean(2)
        high, low = numbers
        return (
            None if high is None else means.index_select(1, self.group_of_high),
            None if low is None else means.index_select(1, self.group_of_low),
        )

    def extra_repr(self) -> str:
        return f"{self.groups} groups of {self.size}"


def group_moments(groups: ChannelGroups, branches: Pair) -> tuple[Pair, Pair]:
    """The branches less the means of their groups, and the biased variances as ``mean`` has them."""
    size = dense_size(*branches)
    means = groups.mean(each(branches, lambda x: position_mean(x, size)))
    centred = _less(branches[0], means[0]), _less(branches[1], means[1])
    return centred, group_square_mean(groups, centred)


def _less(x: Tensor | None, mean: Tensor | None) -> Tensor | None:
    return None if x is None or mean is None else x - mean


def group_square_mean(groups: ChannelGroups, branches: Pair) -> Pair:
    """Means of the squares over groups, as ``ChannelGroups.mean`` has them."""
    size = dense_size(*branches)
    return groups.mean(each(branches, lambda x: position_mean(x * x, size)))


class GroupNormalise(nn.Module):
    """Group normalisation with the weights given: high (N, C - L, *size), low (N, L, *low_size(size)).

    Shapes are kept. Exact at every size and for any low channels.

    Parameters
    ----------
    channels, low, groups:
        As for ``ChannelGroups``.
    eps:
        Added to the variances.
    """

    def __init__(self, channels: int, low: Sequence[int], groups: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.groups = ChannelGroups(channels, low, groups)

    def forward(
        self, high: Tensor | None, low: Tensor | None, weights: Pair = NEITHER, biases: Pair = NEITHER
    ) -> Pair:
        """``weights`` and ``biases``: of the high and of the low channels, (C_b,) or None."""
        centred, variances = group_moments(self.groups, each((high, low), wide))
        scales = each(variances, lambda v: torch.rsqrt(v + self.eps))
        branches = zip((high, low), centred, scales, weights, biases, strict=True)
        y_high, y_low = (
            None
            if x is None or y is None or scale is None
            else shifted(y * weighted(scale, w), b).to(x.dtype)
            for x, y, scale, w, b in branches
        )
        return y_high, y_low


class OctaveGroupNorm(OctaveNorm):
    """GroupNorm over an octave value, with the activation it may have inside.

    High (N, C - L, *size) and low (N, L, *low_size(size)) keep their shapes.

    Parameters
    ----------
    module:
        The GroupNorm over all C channels.
    low:
        The L low channels.
    """

    def __init__(self, module: nn.Module, low: Sequence[int]) -> None:
        assert isinstance(module, nn.GroupNorm)
        super().__init__(module, module.num_channels, low)
        self.normalise = GroupNormalise(module.num_channels, low, module.num_groups, module.eps)

    def normalised(self, high: Tensor | None, low: Tensor | None) -> Pair:
        y: Pair = self.normalise(high, low, self.parameter_pair("weight"), self.parameter_pair("bias"))
        return y
