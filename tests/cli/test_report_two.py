"""``octify report A B``: two conversions, or two sweeps, compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Octify


@pytest.fixture
def results(octify: Octify, net: Path) -> None:
    for alpha in ("0.25", "0.5"):
        assert octify("convert", net, "--alpha", alpha, "-o", f"out-{alpha}", "-q").code == 0
        assert octify("sweep", net, "--alpha", alpha, "-o", f"sweep-{alpha}", "-q").code == 0


def test_two_results_side_by_side(octify: Octify, refused: Callable[..., str], results: None) -> None:
    outcome = octify("report", "out-0.25", "out-0.5", "--html", "both.html", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["names"] == ["out-0.25", "out-0.5"]
    assert outcome.json["written"] == {"html": "both.html"}
    assert 'id="pair-table"' in Path("both.html").read_text()
    shown = octify("report", "out-0.25", "out-0.5")
    assert shown.code == 0 and "layers that differ" in shown.out and "conv2" in shown.out
    outcome = octify("report", "sweep-0.25", "sweep-0.5", "--html", "sweeps.html", "--json")
    assert [point["alpha"] for point in outcome.json["points"]] == [0.25, 0.5]
    assert "Two sweeps side by side" in Path("sweeps.html").read_text()
    assert octify("report", "sweep-0.25", "sweep-0.5").out.count("0.25") >= 1
    assert octify("report", "sweep-0.25/default-0.25", "out-0.5").code == 0
    assert "is a sweep" in refused("report", "sweep-0.25", "out-0.5")
    assert "3 folders cannot be compared" in refused("report", "out-0.25", "out-0.5", "out-0.5")
    assert "gone is not a folder" in refused("report", "out-0.25", "gone")
    assert "does not write" in refused("report", "out-0.25", "out-0.5", "--html", "net.py")
