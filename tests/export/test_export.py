"""ONNX files: what is in them, that they compute the same, and that a difference is noticed."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from onnxscript.rewriter import RewriteRuleClassBase
from torch import Tensor, nn

import octify
from octify.compare import rounding as parity
from octify.errors import CheckFailed, ExportError, OctifyError
from octify.export import ExportResult, deploy, export_onnx
from octify.export.ceil import PoolWithoutCeil
from octify.export.edit import constant
from octify.export.onnx import run_onnx
from octify.nn import MergeOctave, OctaveBatchNorm2d, OctaveChannelwise, OctaveConv2d, SplitOctave
from tests.nets import Net


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


def randomised(model: nn.Module) -> nn.Module:
    """``model`` with norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def residual_net() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = torch.relu(net.bn1(net.stem(x)))
        y = net.bn2(net.conv(y)) + y
        y = F.avg_pool2d(torch.relu(y), 2, ceil_mode=True)
        return net.head(torch.flatten(net.gap(y), 1))

    return randomised(
        Net(
            forward,
            stem=nn.Conv2d(3, 8, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(8),
            conv=nn.Conv2d(8, 8, 3, padding=1),
            bn2=nn.BatchNorm2d(8),
            gap=nn.AdaptiveAvgPool2d(1),
            head=nn.Linear(8, 5),
        )
    )


def nodes(file: Path, op_type: str) -> list[ir.Node]:
    return [node for node in ir.load(file).graph if node.op_type == op_type]


def assert_same_at(file: Path, model: nn.Module, *inputs: Tensor) -> None:
    """The file agrees with ``model`` on inputs that the exporter did not see."""
    reference = copy.deepcopy(model).eval()
    (expected,) = parity.float32_noise(reference, [(inputs, parity.run(reference, inputs))])
    assert parity.compare(expected, run_onnx(file, inputs)[0]).passed


@dataclass(frozen=True)
class Exported:
    """One export of ``residual_net``, looked at by many tests: an export takes seconds, whatever its size."""

    model: nn.Module
    state: dict[str, Tensor]
    result: ExportResult
    printed: str

    @property
    def file(self) -> Path:
        return self.result.path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    model = residual_net().train()
    state = copy.deepcopy(model.state_dict())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        file = tmp_path_factory.mktemp("exported") / "net.onnx"
        result = export_onnx(model, torch.randn(1, 3, 16, 16), file)
    return Exported(model, state, result, printed.getvalue())


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch, exported: Exported) -> Exported:
    """``export_onnx`` takes the exporter's work from ``exported``: for what happens after it."""
    monkeypatch.setattr("octify.export.onnx._to_onnx", lambda *args: ir.load(exported.file))
    return exported


def test_result_tells_what_was_written(exported: Exported) -> None:
    file, result = exported.file, exported.result
    assert result.passed and result.batch_sizes == (1, 2)
    assert 0 < result.max_abs_error <= result.tolerance < 1e-4
    assert 0 < result.max_rel_error < 1e-5
    assert result.bytes == file.stat().st_size
    assert result.opset == ir.load(file).opset_imports[""]
    assert result.ops["Conv"] == 2 + 1  # a pooling is the third
    assert "BatchNormalization" not in result.ops
    assert [entry.name for entry in file.parent.iterdir()] == ["net.onnx"]  # no external data either
    for batch in (1, 2, 5):
        assert_same_at(file, exported.model, torch.randn(batch, 3, 16, 16))


def test_the_model_is_not_touched(exported: Exported) -> None:
    assert exported.model.training
    now = exported.model.state_dict()
    assert all(torch.equal(value, exported.state[name]) for name, value in now.items())


def test_nothing_is_printed(exported: Exported) -> None:
    assert exported.printed == ""


def test_the_file_carries_no_paths_of_this_machine(exported: Exported) -> None:
    content = exported.file.read_bytes()
    assert b".py" not in content and str(Path.cwd()).encode() not in content


def test_static_batch_and_chosen_opset(file: Path) -> None:
    result = export_onnx(residual_net(), torch.randn(3, 3, 8, 8), file, dynamic_batch=False, opset=18)
    assert result.batch_sizes == (3,) and result.opset == 18
    (value,) = ir.load(file).graph.inputs
    assert value.shape is not None and value.shape.numpy() == (3, 3, 8, 8)


def test_other_precisions_and_meta_inputs_become_float32(file: Path) -> None:
    model = residual_net().double()
    export_onnx(model, torch.empty(2, 3, 8, 8, device="meta"), file)
    assert_same_at(file, copy.deepcopy(model).float(), torch.randn(2, 3, 8, 8))


# --- outputs and inputs -----------------------------------------------------------------------


def test_outputs_in_a_dict_keep_their_names(file: Path) -> None:
    def forward(net: Any, x: Tensor) -> dict[str, Any]:
        y = net.conv(x)
        return {"out": y, "aux": [y.mean((2, 3)), y.mean((2, 3)).argmax(1)]}

    result = export_onnx(Net(forward, conv=nn.Conv2d(3, 4, 3)), torch.randn(1, 3, 8, 8), file)
    assert [value.name for value in ir.load(file).graph.outputs] == ["out", "aux_0", "aux_1"]
    assert result.passed


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x, x), ["output_0", "output_1"]),
        (lambda x: [x, (x, None, 3)], ["output_0", "output_1_0"]),
        (lambda x: {"out": x}, ["out"]),
    ],
)
def test_names_of_outputs(make: Callable[[Tensor], Any], names: list[str]) -> None:
    assert list(parity.run(Net(lambda net, x: make(x)), (torch.ones(1),))) == names


def test_two_inputs_share_the_batch(file: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 1)

        def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> Tensor:
            out: Tensor = self.a(x) * scale + self.b(y)
            return out

    model = Two()
    export_onnx(model, (torch.randn(1, 3, 8, 8), torch.randn(1, 2, 6, 6)), file)
    assert_same_at(file, model, torch.randn(3, 3, 8, 8), torch.randn(3, 2, 6, 6))


def test_a_model_that_works_in_place_leaves_the_example_alone(file: Path) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.conv(x.mul_(2))

    x = torch.randn(2, 3, 8, 8)
    before = x.clone()
    assert export_onnx(Net(forward, conv=nn.Conv2d(3, 4, 3)), x, file).passed
    assert torch.equal(x, before)


# --- what the graph looks like ----------------------------------------------------------------


@pytest.mark.parametrize("traceable", [True, False])
def test_no_batchnorm_is_left(file: Path, traceable: bool) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        if not traceable:  # torch.fx stops at a branch on an intermediate shape; torch.export does not
            assert net.conv1(x).shape[1] == 6 and bool(x.shape[2] > 3)
            x = x if x.shape[2] > 3 else -x
        y = net.conv2(torch.relu(net.bn2(net.bn1(net.conv1(x)).relu())))
        return net.bn4(torch.relu(net.bn3(net.head(y.mean((2, 3))))))

    modules = {
        "conv1": nn.Conv2d(3, 6, 3),
        "bn1": nn.BatchNorm2d(6),
        "bn2": nn.BatchNorm2d(6),
        "conv2": nn.Conv2d(6, 6, 3),
        "head": nn.Linear(6, 5),
        "bn3": nn.BatchNorm1d(5),
        "bn4": nn.BatchNorm1d(5),
    }
    model = randomised(Net(forward, **modules))
    result = export_onnx(model, torch.randn(1, 3, 8, 8), file)
    assert "BatchNormalization" not in result.ops
    assert result.ops["Conv"] == 3 and result.ops["Mul"] == 1
    assert_same_at(file, model, torch.randn(4, 3, 8, 8))


@pytest.mark.parametrize("size", [(16, 24), (15, 21)])
def test_resize_has_constant_scales_or_a_constant_size(file: Path, size: tuple[int, int]) -> None:
    def forward(net: Any, x: Tensor) -> list[Tensor]:
        low = net.conv(F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False))
        return [F.interpolate(low, size=x.shape[2:], mode=mode) for mode in ("nearest", "bilinear")]

    model = Net(forward, conv=nn.Conv2d(3, 4, 1))
    result = export_onnx(model, torch.randn(1, 3, *size), file)
    assert "Shape" not in result.ops and result.ops["Resize"] == 2
    for resize in nodes(file, "Resize"):
        assert all(value is None or value.is_initializer() for value in resize.inputs[1:])
        if size[0] % 2 == 0:
            assert resize.inputs[2] is not None and resize.inputs[2].const_value is not None
            assert resize.inputs[2].const_value.numpy().tolist() == [1, 1, 2, 2]
    initialisers = {value.name for resize in nodes(file, "Resize") for value in resize.inputs[2:] if value}
    assert len(initialisers) == 1  # equal ones are stored once
    assert_same_at(file, model, torch.randn(3, 3, *size))


@given(n=st.integers(4, 20), kernel=st.integers(1, 4), stride=st.integers(1, 3), padded=st.booleans())
def test_ceil_mode_is_dropped_exactly_where_it_changes_nothing(
    n: int, kernel: int, stride: int, padded: bool
) -> None:
    pad = kernel // 2 if padded else 0
    x = ir.Value(name="x", shape=ir.Shape([1, 1, n, n]), type=ir.TensorType(ir.DataType.FLOAT))
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": 1}
    node = ir.node("AveragePool", [x], attributes)
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20})
    PoolWithoutCeil.rule("AveragePool").apply_to_model(ir.Model(graph, ir_version=10))
    (node,) = graph
    floor, ceil = (
        F.avg_pool2d(torch.zeros(1, 1, n, n), kernel, stride, pad, ceil_mode=mode).shape
        for mode in (False, True)
    )
    # (n + 2 pad - kernel) divisible by the stride: no window sticks out, whatever the mode.
    exact = (n + 2 * pad - kernel) % stride == 0
    assert node.attributes["ceil_mode"].as_int() == (0 if exact else 1)
    assert not exact or floor == ceil


def octave_graph() -> nn.Module:
    """split -> conv -> norm -> relu -> two convolutions that read the same value -> merge."""

    class Octave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split, self.merge = SplitOctave(32), MergeOctave(32)
            self.conv1 = OctaveConv2d(32, 32, 3, padding=1, bias=False)
            self.bn1 = OctaveBatchNorm2d(32)
            self.relu = OctaveChannelwise(nn.ReLU(), nn.ReLU())
            self.conv2 = OctaveConv2d(32, 32, 3, padding=1)
            self.conv3 = OctaveConv2d(32, 32, 1, bias=False)
            self.bn3 = OctaveBatchNorm2d(32)

        def forward(self, x: Tensor) -> Tensor:
            value = self.split(x)
            value = self.conv1(value[0], value[1])
            value = self.bn1(value[0], value[1])
            value = self.relu(value[0], value[1])
            left = self.conv2(value[0], value[1])
            right = self.conv3(value[0], value[1])
            right = self.bn3(right[0], right[1])
            y: Tensor = self.merge(left[0] + right[0], left[1] + right[1])
            return y

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return type(m).__module__.startswith("octify.nn")

    model = randomised(Octave())
    return torch.fx.GraphModule(model, Tracer().trace(model))


def test_octave_graph_at_even_sizes(file: Path) -> None:
    model = octave_graph()
    result = export_onnx(model, torch.randn(1, 32, 16, 16), file)
    assert set(result.ops) == {"Conv", "Resize", "Add", "Relu", "Concat"}
    pools = [
        conv for conv in nodes(file, "Conv") if list(conv.attributes["kernel_shape"].as_ints()) == [2, 2]
    ]
    assert len(pools) == 3  # the split's, conv1's, and one for both readers of the third value
    for resize in nodes(file, "Resize"):
        assert resize.inputs[2] is not None and resize.inputs[2].const_value is not None
        assert resize.inputs[2].const_value.numpy().tolist() == [1, 1, 2, 2]
        assert resize.attributes["coordinate_transformation_mode"].as_string() == "asymmetric"
        assert resize.attributes["nearest_mode"].as_string() == "floor"
        assert resize.attributes["mode"].as_string() == "nearest"
    assert_same_at(file, model, torch.randn(3, 32, 16, 16))


@pytest.mark.parametrize("kernels", ["paper", "exact"])
def test_a_converted_model(file: Path, kernels: Any) -> None:
    def block(net: Any, x: Tensor) -> Tensor:
        y = torch.relu(net.bn1(net.stem(x)))
        y = torch.relu(net.bn2(net.conv1(y)))
        y = torch.relu(net.bn3(net.conv2(y)) + y)
        return net.head(y.mean((2, 3)))

    def conv(inputs: int, outputs: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    modules = {"stem": conv(3, 16), "conv1": conv(16, 16), "conv2": conv(16, 16), "head": nn.Linear(16, 5)}
    modules |= {f"bn{i}": nn.BatchNorm2d(16) for i in (1, 2, 3)}
    x = torch.randn(1, 3, 32, 32)
    converted = octify.convert(
        randomised(Net(block, **modules)).eval(), x, alpha=0.5, rules="everywhere", kernels=kernels
    ).model
    assert any(isinstance(module, OctaveConv2d) for module in converted.modules())
    result = export_onnx(converted, x, file)
    assert not {"BatchNormalization", "Shape", "Mul"} & set(result.ops)
    assert_same_at(file, converted, torch.randn(3, 3, 32, 32))


def test_octave_graph_at_odd_sizes(file: Path) -> None:
    model = octave_graph()
    result = export_onnx(model, torch.randn(1, 32, 17, 15), file)
    assert "Shape" not in result.ops
    assert "Slice" not in result.ops
    crops = [
        conv for conv in nodes(file, "Conv") if list(conv.attributes["kernel_shape"].as_ints()) == [2, 2]
    ]
    assert len(crops) == result.ops["Resize"]  # of both axes at once
    assert_same_at(file, model, torch.randn(3, 32, 17, 15))


# --- failures ---------------------------------------------------------------------------------


def spoil(amount: float) -> deploy.Rule:
    """A rule that moves the weights of every convolution by ``amount``, relatively."""

    class Spoil:
        def apply_to_model(self, model: ir.Model) -> None:
            for node in model.graph:
                if node.op_type == "Conv":
                    weight = node.inputs[1]
                    assert weight is not None and weight.const_value is not None
                    moved = weight.const_value.numpy() * (1 + amount)
                    weight.const_value = ir.tensor(moved.astype(np.float32))

    return Spoil()


def test_another_function_is_refused(monkeypatch: pytest.MonkeyPatch, file: Path, again: Exported) -> None:
    monkeypatch.setattr(deploy, "RULES", (*deploy.RULES, spoil(1e-4)))
    with pytest.raises(CheckFailed, match=r"does not compute what the model computes") as caught:
        export_onnx(again.model, torch.randn(1, 3, 16, 16), file)
    assert caught.value.exit_code == 1
    assert f"{file} was not written" in str(caught.value)
    assert list(file.parent.iterdir()) == []


def test_an_earlier_file_survives_a_refusal(
    monkeypatch: pytest.MonkeyPatch, file: Path, again: Exported
) -> None:
    file.write_bytes(b"earlier")
    monkeypatch.setattr(deploy, "RULES", (*deploy.RULES, spoil(1e-4)))
    with pytest.raises(CheckFailed):
        export_onnx(again.model, torch.randn(1, 3, 16, 16), file)
    assert file.read_bytes() == b"earlier" and len(list(file.parent.iterdir())) == 1


def test_rounding_is_no_reason_to_refuse(
    monkeypatch: pytest.MonkeyPatch, file: Path, again: Exported
) -> None:
    monkeypatch.setattr(deploy, "RULES", (*deploy.RULES, spoil(1e-7)))
    assert export_onnx(again.model, torch.randn(1, 3, 16, 16), file).passed


def test_a_batch_that_is_fixed_in_the_file_is_noticed(
    monkeypatch: pytest.MonkeyPatch, file: Path, again: Exported
) -> None:
    class FirstTwo(RewriteRuleClassBase):
        """Take the first two rows and no more: nothing changes at the example's batch of 2."""

        def pattern(self, op: Any, x: Any) -> Any:
            return op.Gemm(x, _allow_other_inputs=True, _outputs=["y"])

        def check(self, context: Any, x: ir.Value, y: ir.Value) -> bool:
            return x.name != "first_two"

        def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
            bounds = [constant(op, y, str(i), np.array([b], dtype=np.int64)) for i, b in enumerate((0, 2, 0))]
            node = y.producer()
            assert node is not None
            first_two = op.Slice(x, *bounds, _outputs=["first_two"])
            return op.Gemm(first_two, *node.inputs[1:], **node.attributes)

    monkeypatch.setattr(deploy, "RULES", (*deploy.RULES, FirstTwo.rule()))
    with pytest.raises(CheckFailed, match="batch 3"):
        export_onnx(again.model, torch.randn(2, 3, 16, 16), file)
    assert list(file.parent.iterdir()) == []


def test_an_interrupt_leaves_no_file(monkeypatch: pytest.MonkeyPatch, file: Path, again: Exported) -> None:
    def interrupted(*args: object) -> list[Tensor]:
        raise KeyboardInterrupt

    monkeypatch.setattr("octify.export.onnx.run_onnx", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(again.model, torch.randn(1, 3, 16, 16), file)
    assert list(file.parent.iterdir()) == []


def test_a_model_too_large_for_one_file(monkeypatch: pytest.MonkeyPatch, file: Path, again: Exported) -> None:
    monkeypatch.setattr("octify.export.onnx._LARGEST_FILE", 1000)
    with pytest.raises(ExportError, match="bytes"):
        export_onnx(again.model, torch.randn(1, 3, 16, 16), file)
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("batch", [1, 2])
def test_a_model_with_a_fixed_batch_says_so(file: Path, batch: int) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(net.conv(x).reshape(batch, -1))

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4 * 36, 5))
    x = torch.randn(batch, 3, 8, 8)
    with pytest.raises(ExportError, match="one batch size only") as caught:
        export_onnx(model, x, file)
    assert "dynamic_batch=False" in (caught.value.hint or "")
    assert list(file.parent.iterdir()) == []
    if batch > 1:
        assert export_onnx(model, x, file, dynamic_batch=False).batch_sizes == (batch,)


def test_a_model_that_torch_export_specialises_says_so(file: Path) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:  # runs at any batch size, but differently
        y = net.conv(x)
        return y * 2 if x.shape[0] == 2 else y

    with pytest.raises(ExportError, match="one batch size only") as caught:
        export_onnx(Net(forward, conv=nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 8, 8), file)
    assert "dynamic_batch=False" in (caught.value.hint or "")


def test_an_operator_without_onnx_form_is_named(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(net.conv(x)).abs()

    with pytest.raises(ExportError, match="cannot be exported") as caught:
        export_onnx(Net(forward, conv=nn.Conv2d(3, 4, 3)), torch.randn(1, 3, 8, 8), file)
    assert "eig" in (caught.value.why or "") and len(caught.value.why or "") <= 300
    assert list(file.parent.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_branch_on_a_value_is_found_in_the_users_file(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.conv(x)
        return y * 2 if y.sum() > 0 else y

    with pytest.raises(ExportError, match="cannot be exported") as caught:
        export_onnx(Net(forward, conv=nn.Conv2d(3, 4, 3)), torch.randn(1, 3, 8, 8), file)
    assert (caught.value.where or "").startswith(f"{__file__}:")
    assert capfd.readouterr() == ("", "")  # torch would print graphs


@pytest.mark.parametrize("traced", [False, True])
def test_inputs_the_model_rejects(file: Path, traced: bool, capfd: pytest.CaptureFixture[str]) -> None:
    model = torch.fx.symbolic_trace(residual_net()) if traced else residual_net()
    with pytest.raises(ExportError, match="does not run on the example inputs"):
        export_onnx(model, torch.randn(1, 4, 8, 8), file)
    assert capfd.readouterr() == ("", "")


def test_a_path_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(OctifyError, match="cannot write"):
        export_onnx(nn.Identity(), torch.randn(1), tmp_path / "plain" / "net.onnx")


# --- the comparison itself --------------------------------------------------------------------


def outputs(*values: Tensor, noise: float = 0.0) -> parity.Outputs:
    names = tuple(f"y{i}" for i in range(len(values)))
    return parity.Outputs(names, values, (noise,) * len(values))


@given(noise=st.floats(0, 1e-2), largest=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]))
def test_the_tolerance_is_what_it_says(noise: float, largest: float, sign: int) -> None:
    want = torch.tensor([0.0, largest], dtype=torch.float32)
    floor = parity.FLOOR_ULPS * torch.finfo(torch.float32).eps * float(want.max())
    tolerance = max(parity.NOISE_FACTOR * noise, floor)
    for factor, passed in ((0.9, True), (1.1, False)):
        got = want.double() + torch.tensor([sign * factor * tolerance, 0.0])
        result = parity.compare(outputs(want, noise=noise), [got])
        assert result.tolerance == pytest.approx(tolerance) and result.passed == passed


@pytest.mark.parametrize(
    ("got", "passed"),
    [
        ([1.0, float("inf"), float("nan")], True),
        ([1.0, float("inf"), 0.0], False),
        ([1.0, float("-inf"), float("nan")], False),
        ([float("nan"), float("inf"), float("nan")], False),
    ],
)
def test_infinities_and_nan_must_stand_in_the_same_places(got: list[float], passed: bool) -> None:
    want = torch.tensor([1.0, float("inf"), float("nan")])
    assert parity.compare(outputs(want), [torch.tensor(got)]).passed == passed


def test_missing_outputs_and_other_shapes_fail() -> None:
    want = outputs(torch.zeros(2), torch.zeros(2), noise=1.0)
    assert not parity.compare(want, [torch.zeros(2)]).passed
    assert not parity.compare(want, [torch.zeros(2), torch.zeros(3)]).passed
    assert parity.compare(want, [torch.zeros(2), torch.zeros(2)]).passed


def test_one_bad_output_among_good_ones_is_found_and_named() -> None:
    want = outputs(torch.full((2,), 1e6), torch.ones(2), torch.ones(2, dtype=torch.int64))
    assert (
        parity.compare(want, [torch.full((2,), 1e6 + 0.5), torch.ones(2) + 1e-3, torch.ones(2)]).output
        == "y1"
    )
    assert parity.compare(want, [torch.full((2,), 1e6), torch.ones(2), torch.tensor([1, 2])]).output == "y2"


def test_noise_of_a_model_that_insists_on_float32() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.conv(x) @ torch.ones(6, 6, dtype=torch.float32)

    model = Net(forward, conv=nn.Conv2d(3, 4, 3)).eval()
    x = torch.randn(1, 3, 8, 8)
    (found,) = parity.float32_noise(model, [((x,), parity.run(model, (x,)))])
    assert 0 < found.noise[0] < 1e-4


def test_signature_is_the_documented_one() -> None:
    assert list(inspect.signature(export_onnx).parameters) == [
        "model",
        "example_inputs",
        "path",
        "dynamic_batch",
        "opset",
        "target",
    ]
