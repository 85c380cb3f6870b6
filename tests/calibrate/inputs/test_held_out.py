"""Inputs kept aside are blocks of neighbours, so that crops of one photograph are on one side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from octify.calibrate.inputs.images import _aside


@given(count=st.integers(0, 5000))
def test_an_eighth_is_kept_aside_in_a_few_blocks(count: int) -> None:
    aside = _aside(count)
    assert len(aside) == (0 if count < 32 else min(64, count // 8))
    assert aside <= set(range(count))
    ends = sum(number + 1 not in aside for number in aside)
    assert ends <= 4
    if aside:
        assert ends >= 2
        assert min(aside) < count / 2 < max(aside) + count / 4  # spread over all


@given(photos=st.integers(16, 200), each=st.integers(1, 12))
def test_most_inputs_kept_aside_are_of_photographs_that_are_not_calibrated_on(photos: int, each: int) -> None:
    """At most the ends of the blocks are not: two photographs of each of four blocks."""
    count = photos * each
    aside = _aside(count)
    used = {number // each for number in range(count) if number not in aside}
    shared = [number for number in aside if number // each in used]
    assert len(shared) <= 8 * (each - 1)
