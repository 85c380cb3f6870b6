"""Progress callbacks of long work."""

from __future__ import annotations

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
