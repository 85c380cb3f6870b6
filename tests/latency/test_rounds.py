"""Interleaved timing, on contestants whose times are known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from octify.latency.rounds import interleaved


def sleeper(milliseconds: float, log: list[float]) -> Callable[[], None]:
    def run() -> None:
        log.append(milliseconds)
        time.sleep(milliseconds / 1000)

    return run


@pytest.mark.parametrize("rounds", [1, 5])
def test_times_and_ratios_of_sleepers(rounds: int) -> None:
    log: list[float] = []
    timings = interleaved(
        {"slow": sleeper(20, log), "fast": sleeper(5, log)}, threads=1, rounds=rounds, min_seconds=0.02
    )
    slow, fast = timings["slow"], timings["fast"]
    assert slow.median >= 20 and fast.median >= 5  # sleep never ends early
    assert slow.speedup == 1
    assert 2 < fast.speedup < 5  # 4, less what waking up costs
    assert slow.rounds == fast.rounds == rounds
    assert slow.quartile1 <= slow.median <= slow.quartile3


def test_contestants_take_turns_and_the_order_turns_around() -> None:
    log: list[float] = []
    interleaved({"a": sleeper(2, log), "b": sleeper(1, log)}, threads=1, rounds=4, min_seconds=0.0)
    turns = [(name, len(list(calls))) for name, calls in itertools.groupby(log)]
    once = turns[-1][1]  # a timing, with what the timer does to warm up
    assert turns[-5:] == [(2, once), (1, 2 * once), (2, 2 * once), (1, 2 * once), (2, once)]


def test_a_speedup_is_the_median_of_the_ratios_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that becomes ten times slower half way changes no ratio."""
    from octify.latency import rounds as module

    speeds = iter([1.0] * 4 + [10.0] * 100)

    class Timer:
        def __init__(self, stmt: str, globals: dict[str, Callable[[], float]], num_threads: int) -> None:
            self.seconds = globals["run"]()

        def timeit(self, number: int) -> Timer:
            self.mean = self.seconds * self.speed
            return self

        speed = 1.0

    def slower(what: str, done: int, of: int) -> None:
        Timer.speed = next(speeds)

    monkeypatch.setattr(module, "Timer", Timer)
    timings = interleaved({"a": lambda: 0.3, "b": lambda: 0.1}, threads=1, rounds=7, progress=slower)
    assert timings["b"].speedup == pytest.approx(3.0)
    assert timings["a"].quartile3 > 5 * timings["a"].quartile1
