"""The sweep on a few small models of different families; ``pytest -m zoo tests/zoo`` takes representatives.

``python -m tests.zoo --all`` takes everything, and is what docs/zoo.md is written from.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from tests.zoo.catalogue import Entry, Measured, census, entries, representatives, size_groups
from tests.zoo.check import EXACT, Options, Row, check
from tests.zoo.docs import write
from tests.zoo.runner import Limits, Store, key, run
from tests.zoo.summary import is_fault, totals

# Model -> least share of conv MACs that must be octave on both sides.
QUICK = {
    "torchvision:alexnet": 0.5,
    "torchvision:resnet18": 0.9,
    "torchvision:squeezenet1_1": 0.9,
    "torchvision:mobilenet_v2": 0.8,
    "timm:resnet10t": 0.8,
    "timm:seresnet18": 0.9,
    "timm:regnetx_002": 0.8,
    "timm:mobilenetv3_small_050": 0.6,
    "timm:lcnet_050": 0.6,
    "timm:test_efficientnet": 0.8,
    "timm:test_resnet": 0.8,
    "timm:test_byobnet": 0.8,
    "timm:test_efficientnet_evos": 0.9,
    "timm:test_efficientnet_gn": 0.9,
    "timm:test_efficientnet_ln": 0.9,
    "timm:test_nfnet": 0.9,
    "timm:dla46_c": 0.7,
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
    # An EvoNorm computes its variance in float32 whatever it is given.
    assert row.exact <= (1e-6 if "evos" in name else EXACT)
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


def test_finished_models_are_not_run_again(tmp_path: Path) -> None:
    entry, options, limits = Entry("timm:none", "timm:none"), Options(), Limits()
    store = Store(tmp_path / "rows.jsonl")
    store.add(key(entry.name, options, limits), {"name": entry.name})
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "an interrupted li')
    again = Store(tmp_path / "rows.jsonl")
    assert run([(entry, options)], limits, 1, again, {}, _unexpected) == [{"name": entry.name}]
    assert key(entry.name, options, limits) != key(entry.name, Options(alpha=0.25), limits)
    assert not Store(tmp_path / "rows.jsonl", fresh=True).rows


def _unexpected(row: dict[str, Any], left: int) -> None:
    raise AssertionError(row)


def test_the_command_writes_a_document_and_the_page(tmp_path: Path) -> None:
    out, page = tmp_path / "zoo.json", tmp_path / "zoo.md"
    command = [sys.executable, "-m", "tests.zoo", "timm:test_resnet", "--static", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["totals"]["statuses"] == {"ok": 1}
    write(out, page)
    assert "| timm:test_resnet | ok |" in page.read_text(encoding="utf-8")


def _sleeps(*_: object) -> Row:
    time.sleep(60)
    return Row("")


def _dies(*_: object) -> Row:
    os.kill(os.getpid(), signal.SIGKILL)
    return Row("")


def _grows(*_: object) -> Row:
    held = [bytearray(2**28) for _ in range(64)]
    return Row("", status=f"{len(held)}")


@pytest.mark.parametrize(("act", "status"), [(_sleeps, "timeout"), (_dies, "crashed"), (_grows, "memory")])
def test_a_model_that_hangs_dies_or_grows_is_a_row(
    act: Callable[..., Row], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.zoo.runner.check", act)
    held = bytearray(b"1" * 2**29)  # the parent's, which is not what the model takes
    limits = Limits(seconds=2 if status == "timeout" else 60, gib=len(held) / 2**30)
    (row,) = run([(Entry("a", "b"), Options())], limits, 1, Store(None), {}, lambda row, left: None)
    assert row["status"] == status


def test_every_family_is_in_the_census() -> None:
    known = census()
    assert {entry.family for entry in entries()} == {measured.family for measured in known.values()}
    assert known["timm:resnet50"].parameters == 25_557_032
    assert known["timm:resnet50"].conv_macs == pytest.approx(4.087e9, rel=1e-3)


def test_representatives_are_of_all_families_of_cnns() -> None:
    known = census()
    cnns = {measured.family for measured in known.values() if measured.mainly_cnn}
    one = representatives(1)
    assert {known[name].family for name in one} == cnns
    assert len(one) == len(cnns)
    assert set(one) <= set(representatives(3))


def test_size_groups_cut_a_family_by_parameters() -> None:
    family = [Measured(f"m{n}", parameters=n) for n in (5, 1, 4, 2, 3, 7, 6)]
    groups = [[m.parameters for m in group] for group in size_groups(family, 3)]
    assert [n for group in groups for n in group] == [1, 2, 3, 4, 5, 6, 7]
    assert [len(group) for group in groups] == [2, 3, 2]
    assert len(size_groups(family[:2], 3)) == 2


@pytest.mark.zoo
@pytest.mark.parametrize("name", representatives(3))
def test_representatives_convert_without_faults(name: str) -> None:
    (row,) = run(
        [(Entry(name, census()[name].family), Options())],
        Limits(600),
        1,
        Store(None),
        census(),
        lambda *_: None,
    )
    assert not is_fault(row), f"{row['status']}: {row['detail']}"
