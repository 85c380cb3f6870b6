"""Running numbered cases in several processes, each case with a time limit of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")


class TooLong(Exception):  # noqa: N818 - raised by the clock
    """A case that took longer than it may."""


def run_numbers(
    work: Callable[[int], Result], numbers: range, *, jobs: int, seconds: float, what: str
) -> Iterator[Result]:
    """The result of every number, in any order, until ``seconds`` are over; progress goes to stderr."""
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        if jobs == 1:
            results: Iterator[Result] = map(work, numbers)
        else:
            # Forked: torch and the table of operations are imported once.
            pool = stack.enter_context(multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=200))
            results = pool.imap_unordered(work, numbers)
        for done, result in enumerate(results, 1):
            yield result
            spent = time.monotonic() - start
            if done % 20 == 0 or done == len(numbers):
                print(f"{done}/{len(numbers)} {what}, {spent:.0f} s", file=sys.stderr, flush=True)
            if spent > seconds:
                print(f"stopped after {done} {what}: the time is over", file=sys.stderr)
                return


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLong inside the block when it takes longer (main thread only)."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def single_threaded() -> None:
    """One thread for torch: processes share the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
