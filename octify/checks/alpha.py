"""Checks of shares: alpha, and the worst sets of a sensitivity."""

from __future__ import annotations

import math

from octify.errors import OctifyError


def check_alpha(alpha: object) -> float:
    """Convert ``alpha`` to a float. Raises OctifyError unless it is a number from 0 to 1."""
    number = not isinstance(alpha, (str, bytes, bool)) and hasattr(alpha, "__float__")
    try:
        value = float(alpha) if number else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of many values
        value = math.nan
    if not 0 <= value <= 1:
        written = repr(alpha)[:80] if math.isnan(value) else f"{value:g}"
        raise OctifyError(
            f"alpha must lie between 0 and 1, and is {written}",
            why="alpha is the share of channels kept at half resolution",
            hint="--alpha 0.5, or alpha=0.5",
        )
    return value


def check_worst(share: float) -> float:
    """Raise OctifyError unless ``share`` is above 0 and at most 1."""
    if not 0 < share <= 1:
        raise OctifyError(
            f"the share of worst sets is {share:g}",
            why="it is the share of the coupled sets to keep dense, above 0 and at most 1",
            hint="--worst 0.1",
        )
    return share
