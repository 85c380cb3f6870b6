"""Interleaved timing, on contestants whose times are known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from octify.latency import rounds as module
from octify.latency.rounds import interleaved


class Clock:
    """A timer whose contestants say how many seconds they take, on a machine of changing ``speed``."""

    speed = 1.0

    def __init__(self, stmt: str, globals: dict[str, Callable[[], float]], num_threads: int) -> None:
        self.seconds = globals["run"]()

    def timeit(self, number: int) -> Clock:
        self.mean = self.seconds * self.speed
        return self


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_milliseconds_and_ratios(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Timer", Clock)
    timings = interleaved({"slow": lambda: 0.3, "fast": lambda: 0.1}, threads=1, rounds=rounds)
    slow, fast = timings["slow"], timings["fast"]
    assert (slow.median, fast.median) == pytest.approx((300, 100))
    assert (slow.speedup, fast.speedup) == pytest.approx((1, 3))
    assert slow.rounds == fast.rounds == rounds
    assert slow.spread == pytest.approx(0)


def sleeper(milliseconds: float, log: list[float]) -> Callable[[], None]:
    def run() -> None:
        log.append(milliseconds)
        time.sleep(milliseconds / 1000)

    return run


def test_contestants_take_turns_and_the_order_turns_around() -> None:
    log: list[float] = []
    interleaved({"a": sleeper(2, log), "b": sleeper(1, log)}, threads=1, rounds=4, min_seconds=0.0)
    turns = [(name, len(list(calls))) for name, calls in itertools.groupby(log)]
    once = turns[-1][1]  # a timing, with what the timer does to warm up
    assert turns[-5:] == [(2, once), (1, 2 * once), (2, 2 * once), (1, 2 * once), (2, once)]


def test_a_speedup_is_the_median_of_the_ratios_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that becomes ten times slower half way changes no ratio."""
    speeds = iter([1.0] * 4 + [10.0] * 100)

    class Drifting(Clock):
        pass

    def slower(what: str, done: int, of: int) -> None:
        Drifting.speed = next(speeds)

    monkeypatch.setattr(module, "Timer", Drifting)
    timings = interleaved({"a": lambda: 0.3, "b": lambda: 0.1}, threads=1, rounds=7, progress=slower)
    assert timings["b"].speedup == pytest.approx(3.0)
    assert timings["a"].quartile3 > 5 * timings["a"].quartile1
