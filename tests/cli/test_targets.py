"""``--target-macs`` and ``--target-error`` on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("short_calibration")

Octify = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    torch.save(torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)), tmp_path / "data.pt")
    return tmp_path / "data.pt"


def test_a_target_for_the_macs_is_met(octify: Octify, few: Path, data: Path) -> None:
    outcome = octify(
        *("convert", few, "--target-macs", "0.7", "--rules", "everywhere", "--calib", data),
        *("--calib-effort", "fast", "-o", "out", "--json"),
    )
    assert outcome.code == 0, outcome.err
    totals = outcome.json["totals"]
    assert totals["macs_after"] <= 0.7 * totals["macs_before"]


def test_a_target_that_cannot_be_reached(octify: Octify, net: Path, data: Path) -> None:
    outcome = octify("convert", net, "--target-macs", "0.05", "--calib", data, "-o", "out")
    assert outcome.code in (1, 2)
    assert "Traceback" not in outcome.err and "0." in outcome.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--target-macs", "0.6"), "--calib"),
        (("--target-macs", "0.6", "--alpha", "0.5", "--calib", "data.pt"), "--alpha"),
        (("--target-macs", "2", "--calib", "data.pt"), "--target-macs"),
        (("--target-error", "-1", "--calib", "data.pt"), "--target-error"),
        (
            ("--target-macs", "0.6", "--target-error", "0.1", "--calib", "data.pt"),
            "excludes one for the error",
        ),
    ],
)
def test_wrong_usage(
    refused: Callable[..., str], net: Path, data: Path, arguments: tuple[str, ...], told: str
) -> None:
    assert told in refused("convert", net, *arguments)
    assert not Path("net-octave").exists()
