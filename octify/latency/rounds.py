"""Interleaved timing: each round times every contestant once, so that drift of the machine hits all alike.

A figure is the median over the rounds; a speed-up is the median of the ratios round by round. How sure it
is, the ratio of the medians says, with its interval (``octify.latency.ratio``).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from torch.utils.benchmark import Timer

from octify.latency.ratio import ratio_of_medians
from octify.latency.rows import Timing

ROUNDS = 20
MIN_SECONDS = 0.05  # least duration of one contestant in one round: shorter calls are repeated
WARM_UPS = 3

Run = Callable[[], object]


def interleaved(
    contestants: Mapping[str, Run],
    *,
    threads: int,
    rounds: int = ROUNDS,
    min_seconds: float = MIN_SECONDS,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> dict[str, Timing]:
    """Time ``contestants`` in turn, ``rounds`` times; the order is reversed with every round.

    ``threads`` are set for PyTorch during the runs (``torch.utils.benchmark``); other runtimes have
    their own setting already.
    """
    timers = {
        name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in contestants.items()
    }
    repeats: dict[str, int] = {}
    for done, (name, timer) in enumerate(timers.items()):
        progress(f"warming up {name}", done, len(timers))
        first = timer.timeit(WARM_UPS).mean
        repeats[name] = max(1, round(min_seconds / max(first, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for turn in range(rounds):
        progress("timing", turn, rounds)
        for name in list(timers) if turn % 2 == 0 else reversed(timers):
            seconds[name].append(timers[name].timeit(repeats[name]).mean)
    first_name = next(iter(timers))
    return {name: _timing(own, seconds[first_name]) for name, own in seconds.items()}


def _timing(own: Sequence[float], first: Sequence[float]) -> Timing:
    low, middle, high = statistics.quantiles(own, n=4) if len(own) > 1 else (own[0],) * 3
    speedup = statistics.median(a / b for a, b in zip(first, own, strict=True))
    return Timing(1e3 * middle, 1e3 * low, 1e3 * high, speedup, len(own), ratio_of_medians(first, own))
