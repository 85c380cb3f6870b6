"""``octify sweep``: points, a plot, and going on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("short_calibration")

Octify = Callable[..., Any]
PNG = b"\x89PNG\r\n"


@pytest.fixture
def swept(octify: Octify, net: Path) -> Any:
    outcome = octify("sweep", net, "--alpha", "0.25,0.5", "--rules", "default,everywhere", "--json")
    assert outcome.code == 0, outcome.err
    return outcome


def test_points_are_conversions(swept: Any, octify: Octify, tmp_path: Path) -> None:
    points = swept.json["points"]
    names = ["default-0.25", "default-0.5", "everywhere-0.25", "everywhere-0.5"]
    assert [point["name"] for point in points] == names
    assert json.loads((tmp_path / "net-sweep/sweep.json").read_text())["points"] == points
    for point in points:
        report = json.loads((tmp_path / "net-sweep" / point["name"] / "report.json").read_text())
        totals = report["totals"]
        assert point["macs"] == totals["macs_after"]
        assert point["macs_ratio"] == totals["macs_after"] / totals["macs_before"]
        assert point["error"] is None and point["speedup"] is None
    for few, many in (points[:2], points[2:]):
        assert many["macs"] < few["macs"]
    assert (tmp_path / "net-sweep/sweep.svg").read_text().rstrip().endswith("</svg>")
    assert octify("export", "net-sweep/default-0.5", "net.onnx").code == 0


def test_a_second_run_converts_only_what_is_new(
    swept: Any, octify: Octify, monkeypatch: pytest.MonkeyPatch
) -> None:
    from octify import api

    real, made = api.convert, []

    def convert(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs["alpha"])
        return real(*args, **kwargs)

    monkeypatch.setattr(api, "convert", convert)
    again = octify("sweep", "net.py", "--alpha", "0.25,0.5,0.75", "--rules", "default", "--json")
    assert made == [0.75]
    assert again.json["points"][:2] == swept.json["points"][:2]
    # Another network in the same file is another sweep.
    source = Path("net.py").read_text(encoding="utf-8")
    Path("net.py").write_text(source.replace("model = Net()", "torch.manual_seed(5); model = Net()"))
    octify("sweep", "net.py", "--alpha", "0.25", "--json")
    assert made == [0.75, 0.25]


def test_calibrated_and_timed(octify: Octify, few: Path, tmp_path: Path) -> None:
    torch.save(torch.randn(24, 3, 32, 32), tmp_path / "data.pt")
    outcome = octify(
        *(
            "sweep",
            few,
            "--alpha",
            "0.5",
            "--rules",
            "everywhere",
            "--calib",
            "data.pt",
            "--calib-effort",
            "fast",
        ),
        *("--bench", "--plot", "plot.png", "--json"),
    )
    assert outcome.code == 0, outcome.err
    (point,) = outcome.json["points"]
    assert point["error"] < point["error_uncalibrated"]
    assert point["milliseconds"] > 0 and point["speedup"] > 0
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--alpha", "0.5,two"), "--alpha is '0.5,two'"),
        (("--alpha", "0.5,2"), "alpha must lie between 0 and 1"),
        (("--rules", ","), "--rules is empty"),
        (("--rules", "gone"), "there are no rules named gone"),
        (("--plot", "plot.txt"), "plot.txt is not a plot's name"),
        (("-o", "taken"), "taken is not empty, and not the folder of a sweep"),
        (("--calib", "gone"), "no such calibration data: gone"),
    ],
)
def test_wrong_usage(
    refused: Callable[..., str],
    net: Path,
    tmp_path: Path,
    listing: Callable[[], set[str]],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    before = listing()
    assert told in refused("sweep", net, *arguments)
    assert listing() == before
