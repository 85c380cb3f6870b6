"""The sweep on a few small models of different families; ``pytest -m zoo tests/zoo`` takes representatives.

``python -m tests.zoo --all`` takes everything, and is what docs/zoo.md is written from.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zoo.catalogue import census, entries
from tests.zoo.check import EXACT, Options, Row, check
from tests.zoo.summary import is_fault, totals

ROOT = Path(__file__).resolve().parent.parent.parent

# Model -> least share of conv MACs that must be octave on both sides.
QUICK = {
    "torchvision:alexnet": 0.5,
    "torchvision:resnet18": 0.9,
    "torchvision:squeezenet1_1": 0.9,
    "torchvision:mobilenet_v2": 0.8,
    "torchvision:mobilenet_v3_small": 0.8,
    "torchvision:mnasnet0_5": 0.9,
    "timm:resnet10t": 0.8,
    "timm:seresnet18": 0.9,
    "timm:regnetx_002": 0.8,
    "timm:mobilenetv3_small_050": 0.6,
    "timm:lcnet_050": 0.6,
    "timm:test_efficientnet": 0.8,
    "timm:test_resnet": 0.8,
    "timm:test_byobnet": 0.8,
}


def _family(name: str) -> str:
    return next(entry.family for entry in entries() if entry.name == name)


@pytest.mark.parametrize("name", QUICK)
def test_small_models_convert_exactly(name: str) -> None:
    row = check(name, _family(name), Options(), census().get(name))
    assert row.status == "ok", row.detail
    assert row.traced == "whole"
    assert row.even
    assert row.both >= QUICK[name]
    assert row.alpha0 == 0
    assert row.exact is not None
    assert row.exact <= EXACT
    assert row.change is not None
    assert row.change > 1e-3


def test_a_transformer_is_skipped_and_says_so() -> None:
    name = "timm:vit_tiny_patch16_224"
    row = check(name, _family(name), Options(static=True))
    assert row.status == "not a CNN"
    assert "convolutions" in row.detail


def test_a_failure_counts_as_a_fault_and_an_untraceable_model_does_not() -> None:
    good, bad = Row("a", status="ok", traced="whole", both=1.0, conv_ratio=0.5), Row("b", status="crashed")
    untraceable = Row("c", status="untraceable")
    rows = [vars(row) for row in (good, bad, untraceable)]
    assert [is_fault(row) for row in rows] == [False, True, False]
    assert totals(rows)["mean_conv_ratio"] == pytest.approx((0.5 + 1 + 1) / 3)


def test_the_command_runs_models_once_and_reports_limits(tmp_path: Path) -> None:
    out = tmp_path / "zoo.json"
    command = [sys.executable, "-m", "tests.zoo", "timm:test_resnet", "--static", "--json", str(out)]
    for expected in (1, 0):  # models left to run
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("left]") == expected
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["totals"]["statuses"] == {"ok": 1}
    done = subprocess.run(
        [*command, "--timeout", "0.01"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert json.loads(out.read_text(encoding="utf-8"))["totals"]["statuses"] == {"timeout": 1}
    page = tmp_path / "zoo.md"
    from tests.zoo.docs import write

    write(out, page)
    assert "test_resnet" in page.read_text(encoding="utf-8")
