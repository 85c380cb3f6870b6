"""``tests.benchmarks.speed``: its arguments, its rules, and what it makes of rows."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import octify
from octify.latency.runtime import RUNTIMES
from octify.planning.ruleset import load_rules
from tests.benchmarks import speed, speed_page
from tests.places import ROOT


def test_spatial_is_default_but_for_the_exchange(tmp_path: Path) -> None:
    default, spatial = load_rules("default"), load_rules(speed.rule_file("spatial", tmp_path))
    assert spatial.settings == default.settings.model_copy(update={"exchange": "spatial"})
    assert spatial.rules == default.rules
    assert speed.rule_file("fast", tmp_path) == "fast"


def test_figures_are_ratios_of_the_same_rounds() -> None:
    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = super().forward(x)
            return y.mean((2, 3))

    net = Net(*(nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1) for i in range(3)), nn.ReLU()).eval()
    x = torch.zeros(1, 3, 32, 32)
    result = octify.convert(net, x, 0.5)
    totals = result.report.totals
    found = [
        speed.Contestant("dense", net, totals.macs_before),
        speed.Contestant("default", result.model, totals.macs_after),
    ]
    (figure,) = speed.figures("net", found, ["eager"], x, speed.parse(["--rounds", "2"]))
    assert figure.macs_ratio == totals.macs_after / totals.macs_before < 1
    assert figure.efficiency == pytest.approx(figure.speedup / (1 / figure.macs_ratio))
    assert (figure.model, figure.rules, figure.runtime, figure.batch) == ("net", "default", "eager", 1)
    console = Console(file=io.StringIO(), width=190)
    console.print(speed.table([figure], 2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(cell in text for cell in figure.cells())
    assert "dense ms" in text and "octave MiB" in text


def test_figures_of_other_models_stay_in_the_file(tmp_path: Path) -> None:
    asked, path = speed.parse(["--rounds", "2"]), tmp_path / "out.json"
    figure = speed.Figure(
        "a", "default", "onnxruntime", 1, 1, 0.5, 2.0, 1.0, (1, 1), 2.0, 1.0, None, None, 0.0
    )
    speed.save(path, [figure], asked)
    speed.save(path, [dataclasses.replace(figure, model="b")], asked)
    speed.save(path, [dataclasses.replace(figure, model="b", speedup=3.0)], asked)
    document = json.loads(path.read_text())
    assert [(f["model"], f["speedup"]) for f in document["figures"]] == [("a", 2.0), ("b", 3.0)]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{speed_page.BEGIN}\nold\n{speed_page.END}\nafter\n")
    speed.main(["--table", str(path), str(page)])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| a |" in text and "2.00 (" in text and document["facts"]["processor"] in text
    assert document["date"] in text


def test_the_page_is_what_its_figures_say() -> None:
    page, figures = ROOT / "docs" / "speed.md", ROOT / "docs" / "deploy.json"
    text = page.read_text(encoding="utf-8")
    assert speed_page.filled(text, json.loads(figures.read_text(encoding="utf-8"))) == text


def test_several_threads_do_not_fit_on_one_core() -> None:
    with pytest.raises(SystemExit):
        speed.parse(["--core", "0", "--threads", "2"])


def test_without_a_compiler_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert RUNTIMES["compile"].available()
    assert "compile" not in speed.runtimes(speed.parse(["--compile"]))
    assert "C++ compiler" in capsys.readouterr().err


def test_the_pruned_peer_has_the_macs_of_the_first_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whole blocks of channels, so that it runs as fast as it can."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(128, 128, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 7)),
    ).eval()
    monkeypatch.setattr(speed, "network", lambda name: net)
    x = torch.zeros(1, 3, 16, 16)
    dense, default, pruned = speed.contestants("net", ["default", "pruned"], x, tmp_path)
    assert pruned.macs / dense.macs == pytest.approx(default.macs / dense.macs, abs=0.13)
    widths = [m.out_channels for m in pruned.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 16 == 0 for width in widths)
    assert pruned.model(x).shape == net(x).shape == (1, 7)
