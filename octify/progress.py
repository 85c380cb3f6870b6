"""Progress callbacks of long work."""

from __future__ import annotations

import time
from collections.abc import Callable

Tell = Callable[[str], None]
"""Takes a line on what goes on."""
Progress = Callable[[str, int, int], None]
"""Takes what goes on, the work done, and the whole work."""


class Steps:
    """Progress through steps of known work: ``steps(what, work)`` reports that one begins."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, max(1, total), 0

    def __call__(self, what: str, work: int) -> None:
        """Report that step ``what`` of size ``work`` begins."""
        self._progress(what, self._done, self._total)
        self._done += work


def counting(tell: Tell, name: str = "calibrating") -> Progress:
    """Progress with the finished share of a stage's work, and an estimate of the remaining time."""
    start = 0.0

    def count(what: str, done: int, of: int) -> None:
        nonlocal start
        now = time.perf_counter()
        if not done:  # a stage begins
            start = now
        left = f", about {(now - start) / done * (of - done):.0f} s left" if done else ""
        tell(f"{name}: {what} ({100 * done // of} %{left})")

    return count
