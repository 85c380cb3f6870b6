"""Running numbered cases in several processes, each case with a time limit of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import connection
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")


class TooLong(Exception):  # noqa: N818 - raised by the clock
    """A case that took longer than it may."""


def run_numbers(
    work: Callable[[int], Result],
    died: Callable[[int, int], Result],
    numbers: range,
    *,
    jobs: int,
    seconds: float,
    what: str,
) -> Iterator[Result]:
    """The result of every number, in any order, until ``seconds`` are over; progress goes to stderr.

    Cases run in processes of their own: of one that ends its process by a signal, ``died(number, signal)`` is
    the result.
    """
    start = time.monotonic()
    workers = [_Worker(work, numbers[job::jobs]) for job in range(jobs)]
    done = 0
    try:
        while workers:
            ready = connection.wait([worker.pipe for worker in workers])
            for worker in [each for each in workers if each.pipe in ready]:
                try:
                    result = worker.pipe.recv()
                except EOFError:
                    workers.remove(worker)
                    signal_number = worker.ended()
                    if not worker.left:
                        continue
                    if signal_number is None:
                        raise RuntimeError(f"case {worker.left[0]} raised, see above") from None
                    result = died(worker.left[0], signal_number)
                    workers.append(_Worker(work, worker.left[1:]))
                else:
                    worker.left = worker.left[1:]
                done += 1
                yield result
                spent = time.monotonic() - start
                if done % 20 == 0 or done == len(numbers):
                    print(f"{done}/{len(numbers)} {what}, {spent:.0f} s", file=sys.stderr, flush=True)
                if spent > seconds:
                    print(f"stopped after {done} {what}: the time is over", file=sys.stderr)
                    return
    finally:
        for worker in workers:
            worker.process.terminate()


class _Worker:
    """A fork of this process that works through ``left`` in order: torch is imported once."""

    def __init__(self, work: Callable[[int], Result], numbers: range) -> None:
        self.left = numbers
        self.pipe, other = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_work_through, args=(work, numbers, other), daemon=False)
        with warnings.catch_warnings():
            # Python 3.12 warns of threads, of which torch has one waiting; the child starts its own.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        other.close()

    def ended(self) -> int | None:
        """The signal that ended the process; None where it ended itself."""
        self.process.join()
        code = self.process.exitcode or 0
        return -code if code < 0 else None


def _work_through(work: Callable[[int], object], numbers: range, pipe: connection.Connection) -> None:
    for number in numbers:
        pipe.send(work(number))


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
