"""Axes along which a map has one sample: sound as (N, C, T, 1), a line of text as (N, C, 1, W).

Nothing is halved there, and a convolution's paths keep its taps along such an axis. That holds at this length
alone, so it pays where the other axis is long: a map of a few samples is one of an image, which users run at
other sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONG = 8  # samples along another axis: a sequence, and not the last map of an image network


def single_axes(read: Sequence[int], written: Sequence[int], halved: Sequence[bool]) -> tuple[int, ...]:
    """Axes along which a convolution reads one sample and writes one.

    ``read``, ``written``: spatial sizes of its input and output. ``halved``: the axes that low-frequency
    channels are halved along. Returns an empty tuple where none of these is long.
    """
    lengths = [min(n, out) for n, out, half in zip(read, written, halved, strict=True) if half]
    if max(lengths, default=0) < _LONG:
        return ()
    return tuple(a for a, half in enumerate(halved) if half and read[a] == written[a] == 1)
