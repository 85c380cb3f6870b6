"""``octify bench`` on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Octify = Callable[..., Any]
QUICK = ("--rounds", "1")


def test_a_model_against_its_conversion(octify: Octify, net: Path) -> None:
    outcome = octify("bench", net, "--runtime", "eager", *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    rows = outcome.json["rows"]
    assert [row["model"] for row in rows] == ["original", "octave"]
    assert rows[1]["macs"] < rows[0]["macs"]
    assert rows[0]["timing"]["speedup"] == 1


@pytest.mark.slow
def test_files_and_folders_side_by_side(octify: Octify, net: Path) -> None:
    assert octify("convert", net, "-o", "out", "--onnx", "octave.onnx").code == 0
    assert octify("export", net, "dense.onnx").code == 0
    files = octify("bench", "dense.onnx", "octave.onnx", *QUICK, "--profile", "--batch", "2")
    assert files.code == 0, files.err
    assert "dense.onnx" in files.out and "speed-up" in files.out and "Conv" in files.out
    folder = octify("bench", "out", "--runtime", "channels-last", *QUICK, "--json")
    assert [row["model"] for row in folder.json["rows"]] == ["original", "out"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gone.onnx",), "no such file: gone.onnx"),
        (("gone.py",), "no such file: gone.py"),
        (("net.py", "net.py", "--weights", "net.py"), "--weights is for a single model"),
        (("net.py", "--runtime", "tensorrt"), "tensorrt"),
        (("net.py", "--threads", "0"), "--threads"),
        (("net.py", "--batch", "0"), "--batch"),
        (("net.py", "--alpha", "2"), "alpha must lie between 0 and 1"),
        ((), "Missing argument"),
    ],
)
def test_wrong_usage(refused: Callable[..., str], net: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused("bench", *arguments)


def test_a_file_that_is_no_onnx_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    assert "onnxruntime cannot load the file" in refused("bench", "broken.onnx", *QUICK)


def test_inputs_that_a_file_does_not_take(refused: Callable[..., str], octify: Octify, net: Path) -> None:
    assert octify("export", net, "dense.onnx").code == 0
    told = refused("bench", "dense.onnx", "--input", "1x4x32x32", *QUICK)
    assert "does not run in onnxruntime on inputs of 1x4x32x32" in told


def test_nothing_to_compare(octify: Octify, net: Path) -> None:
    outcome = octify("bench", net, "--alpha", "0.01", "--runtime", "eager", *QUICK)
    assert outcome.code == 1
    assert "nothing in this model can be converted" in outcome.err
