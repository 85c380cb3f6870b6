"""``octify tune`` on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Octify = Callable[..., Any]
QUICK = ("--steps", "4", "--batch", "8")


@pytest.fixture
def folder(octify: Octify, net: Path) -> Path:
    assert octify("convert", net, "-o", "out").code == 0
    return Path("out")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, 32, 32, generator=generator)
    save_file({"images": x, "labels": torch.arange(40) % 10}, tmp_path / "data.safetensors")
    torch.save(x, tmp_path / "plain.pt")
    return tmp_path / "data.safetensors"


@pytest.mark.parametrize(("source", "labelled"), [("data.safetensors", True), ("plain.pt", False)])
def test_a_folder_is_tuned_and_stays(
    octify: Octify, folder: Path, data: Path, source: str, labelled: bool
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    outcome = octify("tune", folder, "--data", source, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    tuning = outcome.json["tuning"]
    assert tuning["labelled"] is labelled
    assert ("accuracy" in tuning["after"]) is labelled
    assert tuning["settings"]["distill"] == (0.5 if labelled else 1.0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    tuned = Path("out-tuned")
    assert json.loads((tuned / "report.json").read_text())["tuning"] == tuning
    assert not (tuned / "tune-checkpoint").exists()
    old, new = load_file(folder / "weights.safetensors"), load_file(tuned / "weights.safetensors")
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    assert octify("export", tuned, "tuned.onnx").code == 0


def test_labels_may_be_left(octify: Octify, folder: Path, data: Path) -> None:
    outcome = octify("tune", folder, "--data", data, *QUICK, "--labels", "none", "--json")
    assert outcome.json["tuning"]["labelled"] is False


def test_labels_are_the_subfolders_of_images(octify: Octify, folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(12):
        place = tmp_path / "images" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), (20 * number, 90, 200)).save(place / f"{number}.png")
    (tmp_path / "images/cat/broken.png").write_bytes(b"no image")
    outcome = octify("tune", folder, "--data", "images", *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["tuning"]["labelled"] is True
    assert "1 image(s) could not be read" in outcome.err and "broken.png" in outcome.err


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(
    octify: Octify, folder: Path, data: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    options = ("--data", "data.safetensors", "--steps", "60", "--batch", "8", "--checkpoint-every", "5")
    assert octify("tune", folder, *options, "-o", "whole").code == 0
    env = {"OMP_NUM_THREADS": "1"}
    process = start("-m", "octify", "tune", "out", *options, "-o", "killed", env=env)
    state = tmp_path / "killed/tune-checkpoint/state.json"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it was too fast to be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/weights.safetensors").exists()
    refused = octify("tune", folder, *options, "-o", "killed")
    assert refused.code == 2 and "--resume goes on from there" in refused.err
    assert 0 < json.loads(state.read_text())["step"] < 60
    assert octify("tune", folder, *options, "-o", "killed", "--resume").code == 0
    whole, again = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(t, again[name]) for name, t in whole.items())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gone", "--data", "data.safetensors"), "gone is not a folder that octify wrote"),
        (("out",), "Missing option '--data'"),
        (("out", "--data", "gone.npz"), "no such calibration data: gone.npz"),
        (("out", "--data", "synthetic"), "there is nothing to tune on"),
        (("out", "--data", "data.safetensors", "--steps", "0"), "--steps cannot be that"),
        (("out", "--data", "data.safetensors", "--lr", "-1"), "--lr cannot be that"),
        (("out", "--data", "data.safetensors", "--distill-weight", "2"), "--distill-weight cannot be that"),
        (("out", "--data", "plain.pt", "--distill-weight", "0.5"), "--distill-weight 0.5 needs labels"),
        (("out", "--data", "data.safetensors", "--resume"), "there is no checkpoint in out-tuned"),
        (("out", "--data", "data.safetensors", "--resume", "--restart"), "exclude each other"),
        (("out", "--data", "few.pt"), "3 examples are too few"),
        (("out", "--data", "wide.pt"), "have shape 4x32x32"),
        (("out", "--data", "nan.pt"), "0 examples are too few"),
        (("out", "--data", "high.safetensors"), "the labels go from 0 to 39"),
        (("out", "--data", "soft.safetensors"), "cannot be used"),
        (("out", "--data", "data.safetensors", "-o", "taken"), "taken is not empty"),
    ],
)
def test_what_is_refused(
    refused: Callable[..., str],
    listing: Callable[[], set[str]],
    folder: Path,
    data: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    x = load_file(data)["images"]
    for name, tensor in {"few": x[:3], "wide": torch.zeros(40, 4, 32, 32), "nan": x / 0}.items():
        torch.save(tensor, tmp_path / f"{name}.pt")
    save_file({"x": x, "y": torch.arange(40)}, tmp_path / "high.safetensors")
    save_file({"x": x, "y": torch.rand(40)}, tmp_path / "soft.safetensors")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    before = listing()
    assert told in refused("tune", *arguments)
    assert listing() == before


def test_without_accelerate(
    refused: Callable[..., str], folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "accelerate" else real(name, *rest)
    )
    assert "pip install 'octify[tune]'" in refused("tune", folder, "--data", data)


def test_the_originals_weights_must_be_there(
    refused: Callable[..., str], octify: Octify, net: Path, data: Path, tmp_path: Path
) -> None:
    from octify.source import load_source

    save_file(load_source(str(net)).model.state_dict(), tmp_path / "w.safetensors")
    assert octify("convert", net, "--weights", "w.safetensors", "-o", "out").code == 0
    (tmp_path / "w.safetensors").unlink()
    assert "the original's weights are gone: w.safetensors" in refused("tune", "out", "--data", data)
