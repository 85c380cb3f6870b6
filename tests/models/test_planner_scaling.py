"""Planning takes time proportional to the size of the graph."""

from __future__ import annotations

import pytest

from tests.benchmarks import phases


@pytest.mark.parametrize("residual", [False, True], ids=["chain", "residual chain"])
def test_planning_is_near_linear(residual: bool) -> None:
    """Eight times the layers: 8 times the seconds if linear, 64 if quadratic; 24 lets the machine be busy."""
    short, long = (phases.chain(layers, residual) for layers in (60, 480))
    assert phases.planning_seconds(long, runs=2) <= 3 * 8 * phases.planning_seconds(short, runs=3)
