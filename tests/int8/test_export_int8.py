"""``octify.export_int8``: a file that runs, agrees as it says, and is there only if it agrees enough."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import CheckFailed, OctifyError
from octify.int8 import Int8Result
from tests.export.test_targets import Inverted


class Net(nn.Module):
    """Convolutions on maps of odd size once halved, whose classes hang on colours."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, padding=1)
        self.body = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.stem(x))
        return self.head(self.last(self.body(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def data() -> Tensor:
    """64 images (N, 3, 18, 18) of strong colours."""
    generator = torch.Generator().manual_seed(0)
    colours = 2 * torch.randn(64, 3, 1, 1, generator=generator)
    return colours + 0.3 * torch.randn(64, 3, 18, 18, generator=generator)


@pytest.fixture(scope="module")
def octave(data: Tensor) -> nn.Module:
    torch.manual_seed(0)
    return octify.convert(Net().eval(), data[:1], 0.5, rules="everywhere").model


@pytest.fixture(scope="module")
def result(octave: nn.Module, data: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Int8Result:
    path = tmp_path_factory.mktemp("int8") / "net.onnx"
    return octify.export_int8(octave, data[:1], path, [data])


def answers(path: Path, x: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def test_the_file_is_quantized_throughout(result: Int8Result) -> None:
    graph = onnx.load(result.path).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["QuantizeLinear"] and operators["DequantizeLinear"]
    assert "Resize" not in operators and "AveragePool" not in operators
    made = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            assert [made[name] for name in node.input] == ["DequantizeLinear"] * len(node.input)
    scales = [init.dims for init in graph.initializer if init.name.endswith("weight_scale")]
    assert any(list(dims) and dims[0] > 1 for dims in scales)  # one scale a channel


def test_what_is_put_side_by_side_has_one_scale(data: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = data[..., :14, :14]
    octave = octify.convert(Inverted().eval(), x[:1], 0.5, rules="everywhere").model
    result = octify.export_int8(octave, x[:1], tmp_path / "x.onnx", [x], timed=False)
    assert result.agreement.relative_error < 0.2
    graph = onnx.load(result.path).graph
    makers = {output: node for node in graph.node for output in node.output}
    values = {init.name: onnx.numpy_helper.to_array(init) for init in graph.initializer}
    pairs = 0
    for node in graph.node:
        sources = [makers[name] for name in node.input] if node.op_type == "Concat" else []
        if sources and all(source.op_type == "DequantizeLinear" for source in sources):
            pairs += 1
            assert len({(*map(float, (values[q.input[1]], values[q.input[2]])),) for q in sources}) == 1
    assert pairs >= 2


def test_the_result_says_what_the_file_is(result: Int8Result, octave: nn.Module, data: Tensor) -> None:
    assert result.bytes == result.path.stat().st_size < result.float_bytes
    assert result.calibrated_on + result.agreement.inputs == len(data) and result.agreement.held_out
    with torch.no_grad():
        exact = octave(data).numpy()
    share = (answers(result.path, data).argmax(1) == exact.argmax(1)).mean()
    assert result.agreement.agreement is not None
    assert abs(result.agreement.agreement - share) < 0.3
    assert result.agreement.relative_error < 0.2
    assert result.times is not None and result.times.runtime == "onnxruntime"
    document = result.to_dict()
    assert document["agreement"]["agreement"] == result.agreement.agreement
    assert any(f"{result.bytes:,} bytes" in line for line in result.lines())


def test_a_batch_that_is_open_stays_open(result: Int8Result, data: Tensor) -> None:
    together = answers(result.path, data[:5])
    alone = np.concatenate([answers(result.path, data[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(together, alone)


def test_a_fixed_batch_that_the_data_does_not_fill(octave: nn.Module, data: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    fixed = octify.export_int8(octave, data[:3], path, [data[:40]], dynamic_batch=False, timed=False)
    assert fixed.calibrated_on + fixed.agreement.inputs == 40 and fixed.times is None
    assert fixed.agreement.relative_error < 0.2
    assert answers(path, data[:3]).shape == (3, 4)


def test_too_little_agreement_leaves_no_file(octave: nn.Module, data: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(CheckFailed, match="relative error of the int8 file") as caught:
        octify.export_int8(octave, data[:1], path, [data], max_error=1e-6, timed=False)
    assert f"{path} was not written" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_images_have_no_class_to_agree_on(tmp_path: Path, data: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()
    with pytest.raises(OctifyError, match="least agreement cannot be required"):
        octify.export_int8(net, data[:1], tmp_path / "x.onnx", [data[:8]], min_agreement=0.9, timed=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "ncnn"}, "ncnn takes no int8"),
        ({"target": "tensorrt"}, "no export target"),
        ({"min_agreement": 98.0}, "least agreement is 98"),
    ],
)
def test_what_cannot_be_asked(
    octave: nn.Module, data: Tensor, tmp_path: Path, options: dict[str, object], told: str
) -> None:
    with pytest.raises(OctifyError, match=told):
        octify.export_int8(octave, data[:1], tmp_path / "x.onnx", [data], **options)  # type: ignore[arg-type]


def test_data_of_another_size_is_refused(data: Tensor, tmp_path: Path) -> None:
    dense = Net().eval()
    with pytest.raises(OctifyError, match="inputs of 3x16x16; the file takes 3x18x18"):
        octify.export_int8(dense, data[:1], tmp_path / "x.onnx", [data[..., :16, :16]])
    assert not list(tmp_path.iterdir())


def test_openvino_answers_for_its_own_file(octave: nn.Module, data: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    result = octify.export_int8(octave, data[:1], path, [data], target="openvino", timed=False)
    assert (result.runtime, result.target) == ("openvino", "openvino-int8")
    assert result.agreement.relative_error < 0.2
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "Resize" in operators and "AveragePool" in operators  # it does both faster than copies


def test_without_openvino_its_file_is_run_in_onnxruntime_and_that_is_said(
    octave: nn.Module, data: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octify.latency.openvino.missing", lambda: "it is not installed")
    result = octify.export_int8(octave, data[:1], tmp_path / "net.onnx", [data], target="openvino")
    assert result.runtime == "onnxruntime" and result.times is None
    assert any("not timed" in warning for warning in result.warnings)


class Steps(nn.Module):
    """Upsampling by 2 and by a transposed convolution, in one or more dimensions, and two outputs."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        back = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
        self.down, self.up = conv(3, 16, 3, 2, padding=1), back(16, 8, 2, 2)
        self.out = conv(24, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.down(x).relu()
        joined = torch.cat([self.up(low), nn.functional.interpolate(low, scale_factor=2)], 1)
        return self.out(joined), low.flatten(2).mean(2)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_networks_of_other_kinds(rank: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.randn(8, 3, *[8] * rank)
    net = Steps(rank).eval()
    result = octify.export_int8(net, data[:1], tmp_path / "x.onnx", data.split(4), timed=False)
    assert not result.agreement.held_out and result.agreement.agreement is None
    assert any("8 calibration input(s) are too few" in warning for warning in result.warnings)
    assert result.agreement.relative_error < 0.1
    half = copy.deepcopy(net).half()
    again = octify.export_int8(half, data[:1].half(), tmp_path / "h.onnx", data.split(4), timed=False)
    assert again.agreement.relative_error < 0.1


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (nn.Identity(), "nothing in the file can be quantized|cannot quantize"),
        (nn.Softplus(), "nothing in the file can be quantized|cannot quantize"),
    ],
)
def test_models_without_an_int8_form_end_in_an_error(net: nn.Module, told: str, tmp_path: Path) -> None:
    with pytest.raises(OctifyError, match=told):
        octify.export_int8(
            net.eval(), torch.zeros(1, 3, 4, 4), tmp_path / "x.onnx", [torch.randn(4, 3, 4, 4)]
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sets", "option", "bits", "warned"),
    [
        (("sse4_2", "avx2"), None, 7, False),
        (("sse4_2", "avx2"), False, 8, True),
        (("sse4_2", "avx2", "avx512_vnni"), None, 8, False),
        (("sse4_2", "avx2", "avx_vnni"), True, 7, False),
        ((), None, 8, False),
        (("asimd", "asimddp"), None, 8, False),
    ],
)
def test_weights_have_7_bits_where_sums_would_overflow(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sets: tuple[str, ...],
    option: bool | None,
    bits: int,
    warned: bool,
) -> None:
    monkeypatch.setattr("octify.int8.export.instruction_sets", lambda: sets)
    net, x, path = nn.Conv2d(3, 8, 1).eval(), torch.randn(4, 3, 4, 4), tmp_path / "x.onnx"
    result = octify.export_int8(net, x[:1], path, [x], timed=False, reduce_range=option)
    assert result.weight_bits == bits and f"weights of {bits} bits" in result.lines()[0]
    assert any("no VNNI" in warning for warning in result.warnings) is warned
    weights = next(i for i in onnx.load(path).graph.initializer if i.name.endswith("weight_quantized"))
    assert np.abs(onnx.numpy_helper.to_array(weights).astype(int)).max() == {7: 64, 8: 127}[bits]


def test_a_word_is_no_data(octave: nn.Module, data: Tensor, tmp_path: Path) -> None:
    with pytest.raises(OctifyError, match="is the word 'synthetic'"):
        octify.export_int8(octave, data[:1], tmp_path / "x.onnx", "synthetic")
