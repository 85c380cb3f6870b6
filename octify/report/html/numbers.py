"""Numbers as text, always with a unit or under a heading that names it."""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN = "\N{EN DASH}"


_KINDS = {"dense": "convolution", "linear (1x1)": "linear"} | {
    kind: f"{kind} convolution" for kind in ("grouped", "depthwise", "transposed")
}


def kind_of(kind: str) -> str:
    """A layer's kind in the page's words, in which dense is said of values."""
    return _KINDS.get(kind, kind)


def sizes(values: Sequence[int]) -> str:
    """``56x56``, with a multiplication sign."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, values)) or UNKNOWN


def fixed(value: float | None, digits: int) -> str:
    """A number with so many decimals; a dash where there is none, or it is not finite."""
    return UNKNOWN if value is None or value != value else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent, one decimal."""
    return UNKNOWN if value is None or value != value else f"{value:.1%}"


def ratio(after: float, before: float) -> str:
    """After over before, three decimals."""
    return f"{after / before:.3f}" if before else UNKNOWN


def alpha(value: float) -> str:
    """A share of low channels; a dash for a dense value."""
    return f"{value:.3g}" if value else UNKNOWN
