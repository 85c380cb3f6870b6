"""Padding of octave values.

Amounts are ``F.pad``'s: (left, right) of the last axis, then of the one before, and so on. With low
input ``u`` standing for ``U u`` the low output is ``P(pad(U u))``. Where pairs stay together that is a
padding of ``u`` by half the amount: by constants or repetition after an even amount on the left, by
wrapping an even map by even amounts. Anything else is computed as it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from octify.kernels.taps import Scheme
from octify.nn.functional import dense_size, low_size, octave_axes, pool, upsample
from octify.nn.tellable import require_tellable

Ends = tuple[int, int]
"""Channels in front and behind."""


def octave_pad(
    high: Tensor | None,
    low: Tensor | None,
    amounts: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
    scheme: Scheme = "exact",
) -> tuple[Tensor | None, Tensor | None]:
    """``F.pad`` along the spatial axes of an octave value."""
    y_high = None if high is None else F.pad(high, list(amounts), mode, value)
    if low is None:
        return y_high, None
    size = dense_size(high, low)
    all_amounts = [*amounts, *[0] * (2 * len(size) - len(amounts))]
    require_tellable(
        high, [n + a + b for n, a, b in zip(size, all_amounts[-2::-2], all_amounts[-1::-2], strict=True)]
    )
    return y_high, _pad_low(low, size, amounts, mode, value, scheme)


def _pad_low(
    low: Tensor, size: Sequence[int], amounts: Sequence[int], mode: str, value: float | None, scheme: Scheme
) -> Tensor:
    dims = len(size)
    all_amounts = [*amounts, *[0] * (2 * dims - len(amounts))]
    pads = [(all_amounts[2 * (dims - 1 - a)], all_amounts[2 * (dims - 1 - a) + 1]) for a in range(dims)]
    halves: list[int] = []
    for n, halved, (left, right) in zip(size, octave_axes(dims), pads, strict=True):
        if not halved:
            each = (left, right)
        elif _keeps_pairs(n, left, right, mode) or (scheme == "paper" and _nearly(n, left, right)):
            each = (left // 2, (n + left + right + 1) // 2 - (n + 1) // 2 - left // 2)
        else:
            return pool(F.pad(upsample(low, size), list(amounts), mode, value))
        halves = [*each, *halves]
    return F.pad(low, halves, mode, value)


def _keeps_pairs(n: int, left: int, right: int, mode: str) -> bool:
    """Return whether padding an axis of ``n`` samples keeps its pairs and adds pairs of equal samples."""
    if left == right == 0:
        return True
    if n == 1 or left % 2:
        return False
    if mode == "circular":
        return n % 2 == 0 and right % 2 == 0
    if mode == "reflect":
        return left <= 0 and right <= 0
    return n % 2 == 0 or right <= 0 or mode == "replicate"


def _nearly(n: int, left: int, right: int) -> bool:
    """Return whether reflecting the low map by half the amounts approximates the padding."""
    return n % 2 == left % 2 == right % 2 == 0 and max(left, right) < n


def pad_channels(
    high: Tensor | None, low: Tensor | None, high_ends: Ends, low_ends: Ends, value: float = 0.0
) -> tuple[Tensor | None, Tensor | None]:
    """Constant channels in front of and behind each branch; a constant map is its own projection."""
    size = dense_size(high, low)
    some = high if high is not None else low
    assert some is not None, "an octave value has at least one branch"

    def ended(x: Tensor | None, ends: Ends, at: Sequence[int]) -> Tensor | None:
        if x is not None:
            return F.pad(x, [*[0] * (2 * len(at)), *ends], value=value) if any(ends) else x
        return some.new_full((some.shape[0], sum(ends), *at), value) if any(ends) else None

    return ended(high, high_ends, size), ended(low, low_ends, low_size(size))
