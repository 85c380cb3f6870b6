"""``--metric``, ``--max-drop`` and ``--target-drop`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Octify, Outcome

pytestmark = pytest.mark.usefixtures("short_calibration")

JUDGE = """\
import torch

torch.manual_seed(0)
x = torch.randn(8, 3, 32, 32)

def spread(model):
    return {"spread": model(x).std().item(), "loss": 0.0 if is_original(model) else 0.25}

def is_original(model):
    return type(model).__name__ == "Net"

def drops(model):
    return 0.9 if is_original(model) else 0.7

def rises(model):
    return 0.1 if is_original(model) else 0.3

def fails(model):
    if not is_original(model):
        raise ValueError("only dense ones")
    return 1.0

def wrong(model):
    return "good"
"""


@pytest.fixture
def judge(net: Path, tmp_path: Path) -> Path:
    (tmp_path / "judge.py").write_text(JUDGE)
    torch.save(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)), tmp_path / "data.pt")
    return net


Convert = Callable[..., Outcome]


@pytest.fixture
def convert(octify: Octify, judge: Path) -> Convert:
    return lambda *arguments: octify("convert", judge, "--rules", "everywhere", "-o", "out", *arguments)


def test_both_values_and_the_drop_are_in_every_report(convert: Convert, octify: Octify) -> None:
    outcome = convert("--metric", "judge.py:spread", "--html", "out.html", "--json")
    assert outcome.code == 0, outcome.err
    metric = outcome.json["metric"]
    assert metric["function"] == "judge.py:spread"
    spread, loss = metric["values"]
    assert spread["name"] == "spread"
    assert spread["drop"] == spread["original"] - spread["result"]
    assert loss == {"name": "loss", "original": 0.0, "result": 0.25, "drop": -0.25}
    assert metric["seconds"] > 0 and metric["seconds_original"] > 0
    assert json.loads(Path("out/report.json").read_text())["metric"] == metric
    shown = octify("report", "out").out
    assert "metric: judge.py:spread (larger is better" in shown and "-0.2500" in shown
    page = Path("out.html").read_text()
    assert 'id="metric-values"' in page and "spread" in page


def test_max_drop_is_a_check_that_leaves_the_result(convert: Convert, octify: Octify) -> None:
    outcome = convert("--metric", "judge.py:drops", "--max-drop", "0.1", "--json")
    assert outcome.code == 1
    assert "drops drops by 0.2000, more than --max-drop 0.1" in outcome.err
    assert outcome.json["error"]["exit_code"] == 1
    assert outcome.json["written"]["directory"] == "out"
    assert octify("report", "out").code == 0
    assert convert("--metric", "judge.py:drops", "--max-drop", "0.2").code == 0
    assert convert("--metric", "judge.py:rises", "--max-drop", "0").code == 0
    assert convert("--metric", "judge.py:rises", "--metric-lower", "--max-drop", "0.1").code == 1


def test_a_metric_that_fails_on_the_result_loses_nothing(convert: Convert, octify: Octify) -> None:
    outcome = convert("--metric", "judge.py:fails", "--max-drop", "0.1")
    assert outcome.code == 2
    assert "ValueError: only dense ones" in outcome.err and "judge.py:20" in outcome.err
    again = octify("report", "out", "--json").json
    assert again["metric"] is None
    assert any("could not be measured" in warning for warning in again["warnings"])


def test_a_metric_that_fails_on_the_original_ends_before_any_work(
    refused: Callable[..., str], judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octify.api.convert", None)
    told = refused("convert", judge, "--metric", "judge.py:wrong")
    assert "returned a str" in told and "judge.py:23" in told and "on the original" in told
    assert not Path("net-octave").exists()


def test_target_drop_reports_the_models_tried(convert: Convert) -> None:
    outcome = convert(
        *("--metric", "judge.py:spread", "--target-drop", "100", "--calib", "data.pt"),
        *("--calib-effort", "norm", "--json"),
    )
    assert outcome.code == 0, outcome.err
    row = outcome.json["allocation"]
    assert row["target"] == "drop" and row["trials"] == len(row["points"]) > 1
    assert all(point["keeps"] for point in row["points"])
    assert outcome.json["totals"]["macs_after"] < 0.5 * outcome.json["totals"]["macs_before"]
    assert outcome.json["metric"]["values"][0]["name"] == "spread"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--metric", "gone.py:f"), "there is no such file"),
        (("--metric", "judge.py"), "--metric judge.py:NAME"),
        (("--metric", "judge.py:sprad"), "--metric judge.py:spread"),
        (("--max-drop", "0.1"), "--max-drop needs --metric"),
        (("--metric-lower",), "--metric-lower needs --metric"),
        (("--target-drop", "0.1", "--calib", "data.pt"), "--target-drop needs --metric"),
        (("--metric", "judge.py:drops", "--target-drop", "0.1"), "--target-drop needs --calib"),
        (("--metric", "judge.py:drops", "--max-drop", "-1"), "--max-drop is -1"),
        (("--metric", "judge.py:drops", "--max-drop", "nan"), "--max-drop is nan"),
        (
            ("--metric", "judge.py:drops", "--target-drop", "0.1", "--calib", "data.pt", "--alpha", "0.5"),
            "--alpha cannot be combined with --target-drop",
        ),
        (
            ("--metric", "judge.py:drops", "--target-drop", "0.1", "--calib", "data.pt", "--plan", "p.json"),
            "--target-drop cannot be combined with --plan",
        ),
        (("--metric", "judge.py:drops", "--html", "judge.py"), "would overwrite judge.py"),
    ],
)
def test_wrong_usage(refused: Callable[..., str], judge: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused("convert", judge, *arguments)
    assert not Path("net-octave").exists()


def test_sweep_has_it_in_table_plot_and_page(octify: Octify, judge: Path) -> None:
    sweep = ("sweep", judge, "--alpha", "0.25,0.5", "--metric", "judge.py:drops")
    outcome = octify(*sweep, "--html", "sweep.html", "--max-drop", "0.2")
    assert outcome.code == 0, outcome.err
    assert "cheapest within --max-drop 0.2: default-0.5" in outcome.out
    assert "0.7000" in outcome.out and "drop" in outcome.out
    points = json.loads(Path("net-sweep/sweep.json").read_text())["points"]
    assert [point["metric"]["values"][0]["result"] for point in points] == [0.7, 0.7]
    assert json.loads(Path("net-sweep/default-0.5/report.json").read_text())["metric"]
    assert "metric against cost" in Path("net-sweep/sweep.svg").read_text()
    assert "judge.py:drops, larger is better" in Path("sweep.html").read_text()
    assert "0.7000" in octify("report", "net-sweep").out
    failed = octify(*sweep, "--max-drop", "0.1", "--json")
    assert failed.code == 1
    assert "default-0.25 comes nearest: drops drops by 0.2000" in failed.err
    assert len(failed.json["points"]) == 2


def test_tune_measures_before_and_after(convert: Convert, octify: Octify) -> None:
    assert convert().code == 0
    tune = ("tune", "out", "--data", "data.pt", "--steps", "2", "--batch", "4")
    outcome = octify(*tune, "--metric", "judge.py:drops", "--max-drop", "0.1", "--json")
    assert outcome.code == 1, outcome.err
    row = outcome.json["tuning"]
    assert row["metric_before"]["values"][0]["drop"] == pytest.approx(0.2)
    assert row["metric_after"]["values"][0]["result"] == 0.7
    assert "drop before" in octify("report", "out-tuned").out
    assert octify("report", "out-tuned", "--html", "tuned.html").code == 0
    assert 'id="metric-tuning-0"' in Path("tuned.html").read_text()
    failed = octify(*tune, "--metric", "judge.py:wrong", "-o", "other")
    assert failed.code == 2 and not Path("other").exists()
