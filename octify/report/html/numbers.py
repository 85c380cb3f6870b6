"""Formatting of numbers, always with a unit or under a heading that names it."""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN = "\N{EN DASH}"


_KINDS = {"dense": "convolution", "linear (1x1)": "linear"} | {
    kind: f"{kind} convolution" for kind in ("grouped", "depthwise", "transposed")
}


def kind_of(kind: str) -> str:
    """Name of a layer's kind on the page, where "dense" is a property of values."""
    return _KINDS.get(kind, kind)


def sizes(values: Sequence[int]) -> str:
    """Format a size as ``56x56``, with a multiplication sign."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, values)) or UNKNOWN


def fixed(value: float | None, digits: int) -> str:
    """Format a number with fixed decimals; a dash if it is None or not finite."""
    return UNKNOWN if value is None or value != value else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Format a share in percent, with one decimal."""
    return UNKNOWN if value is None or value != value else f"{value:.1%}"


def ratio(after: float, before: float) -> str:
    """Format after over before, with three decimals."""
    return f"{after / before:.3f}" if before else UNKNOWN


def alpha(value: float) -> str:
    """Format a share of low channels; a dash for a dense value."""
    return f"{value:.3g}" if value else UNKNOWN


def multiplications(macs: int) -> str:
    """Format a number of MACs with three digits: ``1.81 G``, ``95.4 M``."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if macs >= scale:
            return f"{f'{macs / scale:#.3g}'.rstrip('.')} {letter}"
    return str(macs)
