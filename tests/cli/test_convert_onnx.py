"""``octify convert --onnx`` with ``--batch`` and ``--target``: the file that ``export`` would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest


def batch_of(path: str) -> Any:
    return onnxruntime.InferenceSession(path).get_inputs()[0].shape[0]


def nodes(path: str) -> list[tuple[str, list[int]]]:
    """Every node's type and window."""
    return [
        (node.op_type, [n for a in node.attribute if a.name == "kernel_shape" for n in a.ints])
        for node in onnx.load(path).graph.node
    ]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_file_is_that_of_export(octify: Any, net: Path, target: str) -> None:
    options = ("--target", target, "--batch", "3")
    converted = octify("convert", net, "-o", "out", "--onnx", "a.onnx", *options, "--json")
    assert converted.code == 0, converted.err
    assert converted.json["written"]["onnx"]["batch_sizes"] == [3]
    assert octify("export", "out", "b.onnx", *options).code == 0
    assert batch_of("a.onnx") == batch_of("b.onnx") == 3
    assert nodes("a.onnx") == nodes("b.onnx")
    pooled = ("AveragePool", [2, 2]) in nodes("a.onnx")
    assert pooled == (target == "openvino")


def test_any_batch_without_it(octify: Any, net: Path) -> None:
    assert octify("convert", net, "--onnx", "a.onnx").code == 0
    assert not isinstance(batch_of("a.onnx"), int)


@pytest.mark.parametrize("options", [("--batch", "2"), ("--target", "ncnn")])
def test_without_a_file_they_are_refused(octify: Any, net: Path, options: tuple[str, str]) -> None:
    outcome = octify("convert", net, *options)
    assert outcome.code == 2
    assert f"{options[0]} is for --onnx" in outcome.err
    assert not Path("net-octave").exists()
