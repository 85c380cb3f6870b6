"""``octify sensitivity``: its table and files, rules that ``convert`` takes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Octify


@pytest.fixture
def data(tmp_path: Path) -> Path:
    torch.save(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)), tmp_path / "data.pt")
    return tmp_path / "data.pt"


def test_files_and_rules_that_convert_takes(octify: Octify, net: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def f(model): return float(type(model).__name__ == 'Net')\n")
    arguments = (
        "sensitivity",
        net,
        "--calib",
        data,
        "--alpha",
        "0.5",
        "--no-latency",
        "--rules",
        "everywhere",
    )
    outcome = octify(
        *(*arguments, "--metric", "judge.py:f", "--json"),
        *("--csv", "out.csv", "--html", "out.html", "--rules-out", "mine.toml"),
    )
    assert outcome.code == 0, outcome.err
    document = outcome.json
    worst = document["sets"][0]["written_by"]
    prices = [row["error_per_percent"] for row in document["sets"]]
    assert prices == sorted(prices, reverse=True)
    assert document["written"] == {"csv": "out.csv", "html": "out.html", "rules": "mine.toml"}
    assert Path("mine.toml").read_text() == document["rules_file"]
    assert len(Path("out.csv").read_text().splitlines()) == 1 + len(prices)
    assert "Error against MACs saved" in Path("out.html").read_text()
    assert octify("rules", "check", "mine.toml").code == 0
    assert octify("convert", net, "--rules", "mine.toml", "-o", "out", "-q").code == 0
    plan = json.loads(Path("out/plan.json").read_text())
    low = {conv["path"]: bool(conv["low_out"]) for conv in plan["convolutions"]}
    assert not any(low[path] for path in worst) and any(low.values())
    shown = octify(*arguments)
    assert shown.code == 0
    assert "error per %" in shown.out and "[[rule]]" in shown.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--calib", "gone.pt"), "no such calibration data"),
        (("--calib", "data.pt", "--alpha", "0.5,x"), "--alpha is"),
        (("--calib", "data.pt", "--worst", "0"), "share of worst sets"),
        (("--calib", "data.pt", "--rules-out", "mine.txt"), "--rules-out mine.txt.toml"),
        (("--calib", "data.pt", "--rules-out", "taken.toml"), "would overwrite taken.toml"),
        (("--calib", "data.pt", "--html", "net.py"), "would overwrite net.py"),
        (("--calib", "data.pt", "--csv", "a.csv", "--html", "a.csv"), "name the same file"),
        (("--calib", "data.pt", "--metric-lower"), "needs --metric"),
        ((), "--calib"),
    ],
)
def test_wrong_usage(
    refused: Callable[..., str], net: Path, data: Path, arguments: tuple[str, ...], told: str
) -> None:
    Path("taken.toml").write_text("mine")
    assert told in refused("sensitivity", "net.py", *arguments)
    assert Path("taken.toml").read_text() == "mine"
