"""``octify.bench`` and ``octify bench``: rows for what was asked, counted and measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from octify.latency.memory import peak_of_call, peak_of_file
from octify.latency.profile import by_op_type
from octify.latency.runtime import RUNTIMES, Setting, declared_inputs, feed_of, session_of

Octify = Callable[..., Any]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.conv = nn.Conv2d(32, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(self.stem(x).relu())).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def file(net: nn.Module, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return octify.export_onnx(net, x, tmp_path_factory.mktemp("bench") / "net.onnx").path


def test_a_row_for_every_model_runtime_and_batch(net: nn.Module, x: Tensor) -> None:
    octave = octify.convert(net, x, rules="everywhere").model
    result = octify.bench(
        {"original": net, "octave": octave},
        x,
        runtimes=("onnxruntime", "eager"),
        batches=(1, 3),
        rounds=2,
        min_seconds=0.0,
        profile=True,
    )
    keys = [(row.runtime, row.batch, row.model) for row in result.rows]
    names = ("original", "octave")
    assert keys == [(r, b, n) for b in (1, 3) for r in ("onnxruntime", "eager") for n in names]
    for first, second in zip(result.rows[::2], result.rows[1::2], strict=True):
        assert first.efficiency == first.timing.speedup == 1
        assert first.macs is not None and second.macs is not None and second.macs < first.macs
        assert second.efficiency == pytest.approx(second.timing.speedup * second.macs / first.macs)
        assert bool(first.ops) is (first.runtime == "onnxruntime")
        assert first.peak_bytes is not None and first.peak_bytes > 0
    text = str(result)
    assert "octave" in text and "speed-up" in text
    assert len(result.to_dict()["rows"]) == len(result.rows)


@pytest.mark.parametrize(
    "runtime",
    # inductor takes a C++ compiler and half a minute
    ["eager", "channels-last", pytest.param("compile", marks=pytest.mark.zoo)],
)
def test_pytorch_runtimes_compute_what_the_model_computes(runtime: str, net: nn.Module, x: Tensor) -> None:
    answer = RUNTIMES[runtime].prepare(net, (x,), Setting(1))()
    with torch.no_grad():
        torch.testing.assert_close(answer, net(x), rtol=1e-4, atol=1e-5)


def test_onnxruntime_computes_what_the_model_computes(file: Path, net: nn.Module, x: Tensor) -> None:
    (answer,) = RUNTIMES["onnxruntime"].prepare(file, (x,), Setting(1))()  # type: ignore[misc]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), net(x), rtol=1e-4, atol=1e-5)


def test_the_peak_of_a_call_is_what_it_allocates() -> None:
    """Two live results of 4 MB each, one after the other: 8 MB at most, 12 in all."""
    million = torch.zeros(1_000_000)

    def run() -> Tensor:
        first = million + 1
        second = first * 2
        del first
        return second + 1

    assert peak_of_call(run) == pytest.approx(8e6, rel=0.01)


def test_the_peak_of_a_file_holds_its_weights(tmp_path: Path) -> None:
    layer, x = nn.Linear(2048, 4096), torch.zeros(1, 2048)
    path = octify.export_onnx(layer, x, tmp_path / "layer.onnx").path
    weights = 4 * sum(p.numel() for p in layer.parameters())
    assert weights < peak_of_file(path, [((1, 2048), "float32")], 1) < 10 * weights


def test_times_by_operator_type_add_up(file: Path, x: Tensor) -> None:
    ops = by_op_type(file, (x,), threads=1)
    assert sum(op.share for op in ops) == pytest.approx(1)
    assert [op.milliseconds for op in ops] == sorted((op.milliseconds for op in ops), reverse=True)
    assert next(op.nodes for op in ops if "Conv" in op.op) == 2


def test_the_inputs_of_a_file(file: Path, x: Tensor) -> None:
    assert declared_inputs(file) == ["1x3x32x32:float32"]
    with pytest.raises(OctifyError, match=r"takes 1 input\(s\), 2 were given"):
        feed_of(session_of(file, 1), (x, x))


@pytest.mark.parametrize(
    ("models", "runtimes", "told"),
    [
        ({}, ("eager",), "nothing to time"),
        ({"a": nn.Identity()}, ("tensorrt",), "no runtime 'tensorrt'"),
        ({"a": "a.onnx"}, ("eager",), "cannot run a"),
        ({"a": "a.onnx"}, ("onnxruntime",), "no such file: a.onnx"),
    ],
)
def test_what_cannot_be_timed(models: Any, runtimes: tuple[str, ...], told: str) -> None:
    with pytest.raises(OctifyError, match=told):
        octify.bench(models, torch.zeros(1, 3, 8, 8), runtimes=runtimes)


def test_the_cuda_runtime_says_what_is_missing() -> None:
    reason = RUNTIMES["onnxruntime-cuda"].available()
    if reason is None:
        pytest.skip("this machine has it")
    with pytest.raises(OctifyError, match="no CUDA provider"):
        octify.bench({"a": nn.Identity()}, torch.zeros(1, 3), runtimes=("onnxruntime-cuda",))
