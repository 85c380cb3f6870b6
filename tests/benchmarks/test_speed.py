"""``tests.benchmarks.speed``: its arguments, its rules, and what it makes of rows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import octify
from octify.latency.runtime import RUNTIMES
from octify.planning.ruleset import load_rules
from tests.benchmarks import speed


def test_spatial_is_default_but_for_the_exchange(tmp_path: Path) -> None:
    default, spatial = load_rules("default"), load_rules(speed.rule_file("spatial", tmp_path))
    assert spatial.settings == default.settings.model_copy(update={"exchange": "spatial"})
    assert spatial.rules == default.rules
    assert speed.rule_file("fast", tmp_path) == "fast"


def test_figures_are_ratios_of_the_same_rounds(tmp_path: Path) -> None:
    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = super().forward(x)
            return y.mean((2, 3))

    net = Net(*(nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1) for i in range(3)), nn.ReLU()).eval()
    x = torch.zeros(1, 3, 32, 32)
    result = octify.convert(net, x, 0.5)
    totals = result.report.totals
    found = [
        speed.Contestant("dense", net, tmp_path / "none.onnx", totals.macs_before),
        speed.Contestant("default", result.model, tmp_path / "none.onnx", totals.macs_after),
    ]
    (figure,) = speed.figures("net", found, "eager", x, speed.parse(["--rounds", "2"]))
    assert figure.macs_ratio == totals.macs_after / totals.macs_before < 1
    assert figure.efficiency == pytest.approx(figure.speedup / (1 / figure.macs_ratio))
    assert (figure.model, figure.rules, figure.runtime, figure.batch) == ("net", "default", "eager", 1)
    console = Console(file=io.StringIO(), width=190)
    console.print(speed.table([figure], 2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(cell in text for cell in figure.cells())
    assert "dense ms" in text and "octave MiB" in text


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
