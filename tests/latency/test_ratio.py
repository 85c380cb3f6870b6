"""The interval of a ratio of medians: it covers the truth, narrows with rounds, and calls noise noise."""

from __future__ import annotations

import numpy as np
import pytest

from octify.latency.ratio import Ratio, ratio_of_medians


def times(rounds: int, factor: float, seed: int, noise: float = 0.05) -> tuple[list[float], list[float]]:
    """Times of two contestants, the second ``factor`` times as fast, both disturbed alike in some rounds."""
    random = np.random.default_rng(seed)
    drift = 1 + noise * random.standard_normal(rounds).cumsum() / rounds
    first, own = (drift * np.exp(noise * random.standard_normal(rounds)) for _ in range(2))
    return first.tolist(), (own / factor).tolist()


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_the_interval_covers_the_truth_nearly_always(factor: float) -> None:
    intervals = [ratio_of_medians(*times(20, factor, seed), draws=500) for seed in range(200)]
    covered = sum(ratio.low <= factor <= ratio.high for ratio in intervals)
    assert covered >= 180  # of 190 that are expected; 3.2 standard deviations
    assert all(ratio.low <= ratio.value <= ratio.high for ratio in intervals)


def test_a_difference_is_seen_and_noise_is_not() -> None:
    faster, slower = ratio_of_medians(*times(20, 1.3, 1)), ratio_of_medians(*times(20, 0.8, 1))
    assert faster.significant and faster.verdict == "faster"
    assert slower.significant and slower.verdict == "slower"
    null = [ratio_of_medians(*times(20, 1.0, seed), draws=500).significant for seed in range(200)]
    assert sum(null) <= 20
    assert Ratio(1.1, 0.9, 1.2).verdict == "no clear difference"


def test_more_rounds_say_more() -> None:
    few, many = (ratio_of_medians(*times(rounds, 1.2, 3)) for rounds in (8, 200))
    assert many.high - many.low < (few.high - few.low) / 2


def test_one_round_says_nothing() -> None:
    ratio = ratio_of_medians([2.0], [1.0])
    assert ratio.value == 2 and not ratio.significant


def test_the_same_rounds_give_the_same_interval() -> None:
    assert ratio_of_medians(*times(12, 1.2, 5)) == ratio_of_medians(*times(12, 1.2, 5))
