"""``octify convert`` and ``octify inspect``: what is written, where, and when not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import octify as library
from octify.source import load_source

ARTEFACT = {"plan.json", "weights.safetensors", "report.json", "source.json"}
UNCONVERTIBLE = """\
from torch import nn
def build_model(): return nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
import torch
example_inputs = torch.ones(1, 3, 4, 4)
"""


def test_the_folder_and_the_onnx_file(octify: Any, net: Path, listing: Callable[[], set[str]]) -> None:
    outcome = octify("convert", net, "--alpha", "0.25", "-o", "out", "--onnx", "out/model.onnx", "--json")
    assert outcome.code == 0, outcome.err
    assert listing() == {"net.py", "out", "out/model.onnx"} | {f"out/{name}" for name in ARTEFACT}
    document = outcome.json
    assert document["totals"]["macs_after"] < document["totals"]["macs_before"]
    assert document["written"]["directory"] == "out"
    assert document["written"]["onnx"]["passed"] is True
    assert document["written"]["onnx"]["max_abs_error"] <= document["written"]["onnx"]["tolerance"]
    saved = json.loads(Path("out/report.json").read_text())
    assert saved["totals"] == document["totals"]

    source = load_source(str(net))
    converted = library.load(Path("out"), source.model)
    with torch.no_grad():
        expected = converted(*source.example_inputs)
    session = onnxruntime.InferenceSession("out/model.onnx")
    (answer,) = session.run(None, {session.get_inputs()[0].name: source.example_inputs[0].numpy()})
    assert abs(expected.numpy() - answer).max() <= document["written"]["onnx"]["tolerance"]


def test_the_plan_that_is_saved_is_the_alpha_that_was_asked(octify: Any, net: Path) -> None:
    totals = []
    for alpha in ("0.25", "0.5", "0.75"):
        outcome = octify("convert", net, "--alpha", alpha, "--dry-run", "--json")
        totals.append(outcome.json["totals"]["macs_after"])
    assert totals[0] > totals[1] > totals[2]


@pytest.mark.usefixtures("exports")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "net-octave"),
        (["-o", "a/b/c"], "a/b/c"),
        (["--onnx", "only.onnx"], None),
        (["--dry-run"], None),
        (["--dry-run", "-o", "out", "--onnx", "x.onnx"], None),
    ],
)
def test_where_things_are_written(
    octify: Any, net: Path, listing: Callable[[], set[str]], options: list[str], expected: str | None
) -> None:
    assert octify("convert", net, *options).code == 0
    new = listing() - {"net.py"}
    if expected is None:
        assert new == ({"only.onnx"} if "only.onnx" in options else set())
    else:
        assert {f"{expected}/{name}" for name in ARTEFACT} <= new


def test_an_artefact_is_replaced_and_other_files_are_kept(octify: Any, net: Path) -> None:
    assert octify("convert", net, "-o", "out", "--alpha", "0.25").code == 0
    first = {name: Path("out", name).read_bytes() for name in ARTEFACT}
    Path("out/notes.txt").write_text("mine")
    assert octify("convert", net, "-o", "out", "--alpha", "0.5").code == 0
    assert Path("out/notes.txt").read_text() == "mine"
    assert Path("out/plan.json").read_bytes() != first["plan.json"]
    assert octify("convert", net, "-o", "out", "--alpha", "0.25").code == 0
    assert {name: Path("out", name).read_bytes() for name in ARTEFACT} == first  # and runs are reproducible


def test_force_writes_beside_other_files(octify: Any, net: Path, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "cat.jpg").write_text("cat")
    assert octify("convert", net, "-o", "mixed").code == 2
    assert octify("convert", net, "-o", "mixed", "--force").code == 0
    assert {entry.name for entry in (tmp_path / "mixed").iterdir()} == ARTEFACT | {"cat.jpg"}


def test_a_plan_is_replayed(octify: Any, net: Path) -> None:
    assert octify("convert", net, "-o", "first", "--alpha", "0.25", "--kernels", "exact").code == 0
    assert octify("convert", net, "-o", "second", "--plan", "first/plan.json").code == 0
    for name in ("plan.json", "weights.safetensors"):
        assert Path("first", name).read_bytes() == Path("second", name).read_bytes()


def test_excluded_layers_stay_dense(octify: Any, net: Path) -> None:
    plain = octify("inspect", net, "--json").json
    excluded = octify("inspect", net, "--exclude", "conv2", "--json").json
    assert "conv2" not in {layer["path"] for layer in plain["left_dense"]}
    assert "conv2" in {layer["path"] for layer in excluded["left_dense"]}


def test_inspect_reports_and_writes_nothing(octify: Any, net: Path, listing: Callable[[], set[str]]) -> None:
    before = listing()
    outcome = octify("inspect", net)
    assert outcome.code == 0
    assert listing() == before
    assert "conv2" in outcome.out
    document = octify("inspect", net, "--json").json
    reasons = {layer["path"]: layer["reason"] for layer in document["left_dense"]}
    assert reasons["stem"]
    assert document["source"] == {
        "target": str(net),
        "inputs": [{"shape": [1, 3, 32, 32], "dtype": "float32"}],
    }


@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_nothing_convertible(
    octify: Any, tmp_path: Path, listing: Callable[[], set[str]], command: str
) -> None:
    (tmp_path / "mlp.py").write_text(UNCONVERTIBLE)
    outcome = octify(command, "mlp.py")
    assert outcome.code == 1
    assert "error: nothing in this model can be converted" in outcome.err
    assert "no convolution" in outcome.err
    assert listing() == {"mlp.py"}
    as_json = octify(command, "mlp.py", "--json")
    assert as_json.code == as_json.json["error"]["exit_code"] == 1


def test_nothing_convertible_under_these_rules_lists_the_reasons(octify: Any, net: Path) -> None:
    outcome = octify("convert", net, "--exclude", "*", "--json")
    assert outcome.code == 1
    assert len(outcome.json["left_dense"]) == 4
    assert "4 x" in outcome.err


def test_alpha_0_is_done_and_not_a_failure(octify: Any, net: Path) -> None:
    outcome = octify("convert", net, "--alpha", "0", "-o", "out", "--json")
    assert outcome.code == 0
    assert outcome.json["totals"]["macs_after"] == outcome.json["totals"]["macs_before"]


@pytest.mark.usefixtures("wrong_onnx")
def test_a_failed_parity_check_leaves_no_onnx_file(
    octify: Any, net: Path, listing: Callable[[], set[str]]
) -> None:
    outcome = octify("convert", net, "--onnx", "x.onnx", "--json")
    assert outcome.code == 1
    assert "x.onnx was not written" in outcome.err
    assert "0.5" in outcome.err
    assert listing() == {"net.py"}
    assert outcome.json["error"]["exit_code"] == 1
    assert outcome.json["totals"]  # the report is told all the same


def test_weights_are_what_is_converted(octify: Any, net: Path) -> None:
    model = load_source(str(net)).model
    torch.save({"state_dict": {k: v + 1 for k, v in model.state_dict().items()}}, "w.pt")
    octify("convert", net, "-o", "plain")
    assert octify("convert", net, "-o", "loaded", "--weights", "w.pt").code == 0
    assert Path("plain/weights.safetensors").read_bytes() != Path("loaded/weights.safetensors").read_bytes()
    assert json.loads(Path("loaded/source.json").read_text())["weights"] == "../w.pt"
