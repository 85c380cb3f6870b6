"""Grouping of warnings: one kind is shown once, with a count."""

from __future__ import annotations

import re
from collections.abc import Sequence

# The parts that differ among warnings of one kind: dotted and numbered names, places in files, numbers.
_OWN = re.compile(r"\S*[\w\]]\.\w\S*|\S*\d\S*")


def grouped(messages: Sequence[str], shown: int = 1) -> list[str]:
    """``messages`` in order; three or more of one kind are cut to the first ``shown`` and a count."""
    kinds: dict[str, list[str]] = {}
    for message in messages:
        kinds.setdefault(_OWN.sub("#", message), []).append(message)
    lines = []
    for same in kinds.values():
        if len(same) < 3:
            lines += same
        else:
            lines += [*same[: shown - 1], f"{same[shown - 1]} (and {len(same) - shown} more of this kind)"]
    return lines
