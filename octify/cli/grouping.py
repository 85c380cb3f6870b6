"""Warnings of one kind told once, with how many there are."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What differs among warnings of one kind: dotted and numbered names, places in files, numbers.
_OWN = re.compile(r"\S*[\w\]]\.\w\S*|\S*\d\S*")


def grouped(messages: Sequence[str], shown: int = 1) -> list[str]:
    """``messages`` in their order; of three or more of one kind the first ``shown``, with a count."""
    kinds: dict[str, list[str]] = {}
    for message in messages:
        kinds.setdefault(_OWN.sub("#", message), []).append(message)
    told = []
    for same in kinds.values():
        if len(same) < 3:
            told += same
        else:
            told += [*same[: shown - 1], f"{same[shown - 1]} (and {len(same) - shown} more of this kind)"]
    return told
