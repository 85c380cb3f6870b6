"""Norms whose statistics are numbers per sample and group of channels.

Normalising by such a number commutes with ``P`` and ``U``, so each branch is normalised as it is
stored; only the statistics are of both. They come from the moments of single channels, in which
a low sample counts as often as the positions it stands for: with ``m_c`` and ``v_c`` the mean and
variance of channel ``c``,

    m = mean_c m_c        v = mean_c (v_c + (m_c - m)^2)

(the variance within plus the variance between channels). No large numbers are subtracted from
each other, so a mean that is large against the deviation costs no precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    def __init__(self, channels: int, low: Sequence[int], groups: int) -> None:
        super().__init__()
        if channels % groups:
            raise PlanError(f"{channels} channels do not fall into {groups} equal groups")
        self.groups = groups
        self.size = channels // groups
        high_channels, low_channels = split_indices(channels, low)
        if groups == 1:  # the order within a group is free: as they are stored, high first
            high_channels, low_channels = split_indices(channels, range(len(high_channels), channels))
        place = {channel: position for position, channel in enumerate(high_channels + low_channels)}
        self.order = Gather([place[channel] for channel in range(channels)])
        self.pick_high = Gather(high_channels) if high_channels else None
        self.pick_low = Gather(low_channels) if low_channels else None

    def join(self, numbers: Pair) -> Tensor:
        """One number per channel of each branch, (N, C_b, 1, ...) -> (N, G, C/G, 1, ...)."""
        present = [x for x in numbers if x is not None]
        joined: Tensor = self.order(present[0] if len(present) == 1 else torch.cat(present, 1))
        return joined.reshape(joined.shape[0], self.groups, self.size, *joined.shape[2:])

    def part(self, numbers: Tensor) -> Pair:
        """The reverse of ``join``, also of one number per group: (N, G, C/G or 1, 1, ...)."""
        flat = numbers.expand(-1, -1, self.size, *(-1 for _ in numbers.shape[3:])).flatten(1, 2)
        return (
            None if self.pick_high is None else self.pick_high(flat),
            None if self.pick_low is None else self.pick_low(flat),
        )

    def extra_repr(self) -> str:
        return f"{self.groups} groups of {self.size}"


@dataclass(frozen=True)
class Moments:
    """Statistics of an octave value by groups.

    centred:
        The branches, each channel less its own mean.
    offset:
        Every channel's mean less its group's, (N, G, C/G, 1, ...).
    variance:
        Biased, of every group, (N, G, 1, 1, ...).
    """

    centred: Pair
    offset: Tensor
    variance: Tensor


def group_moments(groups: ChannelGroups, branches: Pair) -> Moments:
    """Moments over all positions and all channels of a group, in both branches."""
    size = dense_size(*branches)
    means = each(branches, lambda x: position_mean(x, size))
    centred = _less(branches[0], means[0]), _less(branches[1], means[1])
    mean = groups.join(means)
    within = groups.join(each(centred, lambda x: position_mean(x * x, size)))
    offset = mean - mean.mean(2, keepdim=True)
    return Moments(centred, offset, (within + offset * offset).mean(2, keepdim=True))


def _less(x: Tensor | None, mean: Tensor | None) -> Tensor | None:
    return None if x is None or mean is None else x - mean


def group_square_mean(groups: ChannelGroups, branches: Pair) -> Tensor:
    """Mean of the squares of every group, (N, G, 1, 1, ...)."""
    size = dense_size(*branches)
    return groups.join(each(branches, lambda x: position_mean(x * x, size))).mean(2, keepdim=True)


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
        moments = group_moments(self.groups, each((high, low), wide))
        scale = torch.rsqrt(moments.variance + self.eps)
        scales = self.groups.part(scale)
        shifts = self.groups.part(moments.offset * scale)
        branches = zip((high, low), moments.centred, scales, shifts, weights, biases, strict=True)
        y_high, y_low = (None if branch[0] is None else _scaled(*branch) for branch in branches)
        return y_high, y_low


def _scaled(
    x: Tensor,
    centred: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """``weight * (centred * scale + shift) + bias``, with the small factors multiplied first."""
    y = centred * weighted(scale, weight) + shifted(weighted(shift, weight), bias)
    return y.to(x.dtype)


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
