"""Properties that make an exported graph fast, in the file and in what onnxruntime makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

import octify
from octify.export.split import WIDEST, SelectingSplit, split_by_convolution
from octify.nn import SplitOctave
from tests.oracle import randomised

SIDE = 32  # so that the maps are 32 and 16 samples a side, which the default rules convert
OUT_OF_LAYOUT = {"Split", "Slice", "Gather", "Concat", "Pad", "Transpose", "ConvTranspose", "DepthToSpace"}


def _conv(into: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class Residual(nn.Module):
    """``relu(body(x) + shortcut(x))``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Head(nn.Module):
    """The mean of every channel, and a classifier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def bottlenecks() -> nn.Module:
    """As ResNet-50: a shortcut by a convolution, then an identity, then one with a stride."""

    def body(into: int, stride: int) -> nn.Module:
        return nn.Sequential(
            *(_conv(into, 32, 1), nn.ReLU(), _conv(32, 32, 3, stride), nn.ReLU(), _conv(32, 64, 1))
        )

    return nn.Sequential(
        *(_conv(3, 32), nn.ReLU(), Residual(body(32, 1), _conv(32, 64, 1)), Residual(body(64, 1))),
        *(Residual(body(64, 2), _conv(64, 64, 1, 2)), Residual(body(64, 1)), Head(64)),
    )


def last_stage() -> nn.Module:
    """As ResNet-50's at 7x7, octave inside its blocks only: low branches are cropped, the stream is dense."""

    def body() -> nn.Module:
        return nn.Sequential(*(_conv(32, 256, 1), nn.ReLU(), _conv(256, 256), nn.ReLU(), _conv(256, 32, 1)))

    return nn.Sequential(_conv(3, 32), nn.ReLU(), Residual(body()), Residual(body()), Head(32))


def identities() -> nn.Module:
    """As ResNet-18: an identity shortcut leaves the dense stem, so a split layer stands there."""
    blocks = [Residual(nn.Sequential(_conv(32, 32), nn.ReLU(), _conv(32, 32))) for _ in range(3)]
    return nn.Sequential(_conv(3, 32), nn.ReLU(), *blocks, Head(32))


def inverted() -> nn.Module:
    """As MobileNetV2: wide depthwise convolutions between narrow ones, ReLU6 (its fast rules)."""

    def block(into: int, out: int) -> list[nn.Module]:
        wide = [_conv(into, 96, 1), nn.ReLU6(), _conv(96, 96, 3, groups=96), nn.ReLU6()]
        return [*wide, _conv(96, out, 1)]

    return nn.Sequential(_conv(3, 24), nn.ReLU6(), *block(24, 24), *block(24, 32), Head(32))


@dataclass(frozen=True)
class Case:
    """A network, the rules it is converted by, and what may be left in its optimised graph.

    adds:
        Additions that no convolution can take up: a residual to an upsampled map, where upsampling in
        front of its convolution is not worth it (``octify.export.upsample``).
    last:
        What makes the maps that a linear layer reads flattened, of both branches; empty if it reads means.
    """

    build: Callable[[], nn.Module]
    rules: str = "default"
    splits: int = 0
    adds: int = 0
    side: int = SIDE
    head: frozenset[str] = frozenset()
    last: tuple[str, ...] = ()


CASES = {
    "bottlenecks": Case(bottlenecks),
    "identities": Case(identities, splits=1, adds=2),
    "odd": Case(last_stage, side=7, adds=0),
    "inverted": Case(inverted, "fast"),
}


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return build


ZOO = {
    "resnet50": Case(_torchvision("resnet50"), adds=8, side=224),
    "vgg16": Case(_torchvision("vgg16"), side=224, last=("MaxPool", "AveragePool")),
    "mobilenet_v2": Case(_torchvision("mobilenet_v2"), "fast", adds=8, side=224),
}


@dataclass(frozen=True)
class Exported:
    """An octave network, its file, and the file as onnxruntime runs it."""

    case: Case
    model: nn.Module
    file: onnx.GraphProto
    optimised: onnx.GraphProto

    @property
    def written(self) -> Counter[str]:
        return Counter(node.op_type for node in self.file.node)

    @property
    def run(self) -> Counter[str]:
        return Counter(node.op_type for node in self.optimised.node)


def _exported(case: Case, folder: Path) -> Exported:
    torch.manual_seed(0)
    original = randomised(case.build()).float()
    x = torch.randn(1, 3, case.side, case.side)
    result = octify.convert(original, x, 0.5, case.rules)
    assert result.report.totals.splits == case.splits
    file, optimised = folder / "net.onnx", folder / "optimised.onnx"
    octify.export_onnx(result.model, x, file, dynamic_batch=False)  # compares with PyTorch
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 3  # it warns that the optimised file is for this machine alone
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Exported(case, result.model, onnx.load(file).graph, onnx.load(optimised).graph)


@pytest.fixture(
    scope="module",
    params=[*CASES, *(pytest.param(name, marks=pytest.mark.zoo) for name in ZOO)],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    case = (CASES | ZOO)[request.param]
    yield _exported(case, tmp_path_factory.mktemp(request.param))


def _initialisers(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _sizes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Spatial sizes by value."""
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim[2:]] for v in graph.value_info}


def _is_mean(weight: np.ndarray) -> bool:
    return weight.shape[1:] == (1, 2, 2) and bool((weight == 0.25).all())


def _attribute(node: onnx.NodeProto, name: str) -> object:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def test_norms_are_folded(exported: Exported) -> None:
    assert "BatchNormalization" not in exported.written
    depthwise_by_one = [
        node
        for node in exported.file.node
        if node.op_type == "Conv" and set(_attribute(node, "kernel_shape") or ()) == {1}  # type: ignore[call-overload]
        if (_attribute(node, "group") or 1) != 1
    ]
    assert not depthwise_by_one  # what a norm becomes that nothing absorbed


def test_convolutions_take_up_additions_and_activations(exported: Exported) -> None:
    """What is left of them: residuals that are added to an upsampled map."""
    assert exported.run["Conv"] + exported.run["FusedConv"] == exported.written["Conv"]
    assert exported.run["Add"] + exported.run["Sum"] == exported.case.adds
    assert not exported.run.keys() & {"Relu", "Clip"}


def test_nothing_leaves_the_layout(exported: Exported) -> None:
    """Only what the last layer reads of each branch comes out of the layout; nothing goes in again."""
    sizes = _sizes(exported.file)

    def reads_a_map(node: onnx.NodeProto) -> bool:
        return any(max(sizes.get(name, [1]), default=1) > 1 for name in node.input)

    found = {node.op_type for node in exported.file.node if reads_a_map(node)} & OUT_OF_LAYOUT
    assert found == exported.case.head
    if not found:
        made = {output: node.op_type for node in exported.optimised.node for output in node.output}
        out = [made[node.input[0]] for node in exported.optimised.node if node.op_type == "ReorderOutput"]
        assert exported.run["ReorderInput"] == 0
        means = ([], ["GlobalAveragePool"], ["GlobalAveragePool"] * 2, ["Concat"])
        assert out in ((list(exported.case.last),) if exported.case.last else means)


def test_every_map_is_pooled_once(exported: Exported) -> None:
    """By a convolution where it has an even size."""
    weights = _initialisers(exported.file)
    means = [
        node for node in exported.file.node if node.op_type == "Conv" and _is_mean(weights[node.input[1]])
    ]
    pools = [*means, *(node for node in exported.file.node if node.op_type == "AveragePool")]
    assert pools
    assert max(Counter(node.input[0] for node in pools).values()) == 1
    rounded_up = [node.input[0] for node in exported.file.node if _attribute(node, "ceil_mode")]
    assert all(any(n % 2 for n in _sizes(exported.file)[name]) for name in rounded_up)


def test_upsampling_is_by_constants(exported: Exported) -> None:
    constants = _initialisers(exported.file)
    resizes = [node for node in exported.file.node if node.op_type == "Resize"]
    assert resizes
    for node in resizes:
        assert len(node.input) == 3
        assert constants[node.input[2]].tolist() == [1, 1, 2, 2]
        assert _attribute(node, "mode") in (None, b"nearest")
        assert _attribute(node, "coordinate_transformation_mode") == b"asymmetric"
        assert _attribute(node, "nearest_mode") == b"floor"
    assert not exported.written.keys() & {"Shape", "Size", "Expand"}


def test_maps_upsampled_alike_are_added_before(exported: Exported) -> None:
    """No chain of additions upsamples twice; a sum that others read too ends a chain."""
    read = Counter(name for node in exported.file.node for name in node.input)
    made = {output: node for node in exported.file.node for output in node.output if read[output] == 1}
    for node in exported.file.node:
        if node.op_type == "Add":
            terms = list(_terms(node, made))
            assert sum(term.op_type == "Resize" for term in terms) <= 1


def _terms(node: onnx.NodeProto, made: dict[str, onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for value in node.input:
        producer = made.get(value)
        if producer is not None and producer.op_type == "Add":
            yield from _terms(producer, made)
        elif producer is not None:
            yield producer


def test_weights_are_stored_once(exported: Exported) -> None:
    """No more numbers than the folded model has, but for selections of channels, means and constants."""
    stored = _initialisers(exported.file)
    large = [array for array in stored.values() if array.size > 16]
    assert len({(array.shape, array.tobytes()) for array in large}) == len(large)
    own = [array for array in large if array.dtype == np.float32 and not set(array.flat) <= {0.0, 0.25, 1.0}]
    folded = octify.export.fold_batchnorm(exported.model)
    assert sum(array.size for array in own) <= sum(p.numel() for p in folded.parameters())


# Rules of the export, on graphs of a few nodes --------------------------------------------------------------


class Sum(nn.Module):
    """``conv(x) + up(a(y)) + r + up(b(y))``, added from the left, and an activation."""

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        self.mode = mode
        self.conv, self.skip = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)

    def up(self, y: Tensor) -> Tensor:
        return F.interpolate(y, scale_factor=2.0, mode=self.mode)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.up(self.a(y)) + x + self.up(self.b(y)) + self.skip(x))


def _graph(model: nn.Module, inputs: tuple[Tensor, ...], file: Path) -> onnx.GraphProto:
    octify.export_onnx(model.eval(), inputs, file, dynamic_batch=False)
    return onnx.load(file).graph


def test_sums_are_reordered(tmp_path: Path) -> None:
    """``skip + (conv + (x + up(a + b)))`` or with the convolutions exchanged: each is fused with one Add."""
    torch.manual_seed(0)
    graph = _graph(Sum(), (torch.randn(2, 16, 8, 8), torch.randn(2, 16, 4, 4)), tmp_path / "sum.onnx")
    assert Counter(node.op_type for node in graph.node)["Resize"] == 1
    made = {node.output[0]: node for node in graph.node}
    last = made[next(node for node in graph.node if node.op_type == "Relu").input[0]]
    chain = []
    while last.op_type == "Add":
        operands = [made[name].op_type if name in made else "input" for name in last.input]
        chain.append(sorted(operands))
        last = next((made[name] for name in last.input if name in made and made[name].op_type == "Add"), last)
        if "Add" not in operands:
            break
    assert chain == [["Add", "Conv"], ["Add", "Conv"], ["Resize", "input"]]


def test_a_sum_that_is_read_twice_stays(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            inner = self.conv(x) + y
            return F.relu(inner + x), inner

    torch.manual_seed(0)
    inputs = (torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8))
    graph = _graph(Twice(), inputs, tmp_path / "twice.onnx")
    assert Counter(node.op_type for node in graph.node)["Add"] == 2
    first = next(node for node in graph.node if node.op_type == "Add")
    assert first.output[0] in {output.name for output in graph.output}


class Pools(nn.Module):
    """Poolings side by side, of 16 channels and of 24."""

    def __init__(self, *pools: nn.Module) -> None:
        super().__init__()
        self.pools = nn.ModuleList(pools)

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [pool(z) for pool in self.pools for z in (x, y)]


def test_poolings_by_2_are_convolutions(tmp_path: Path) -> None:
    """None whose windows overlap or are padded."""
    torch.manual_seed(0)
    pools = Pools(nn.AvgPool2d(2), nn.AvgPool2d(3, 2), nn.AvgPool2d(2, 1), nn.AvgPool2d(2, 2, 1))
    inputs = (torch.randn(2, 16, 8, 8), torch.randn(2, 24, 8, 8))
    graph = _graph(pools, inputs, tmp_path / "pool.onnx")
    assert Counter(node.op_type for node in graph.node) == {"AveragePool": 6, "Conv": 2}


@pytest.mark.parametrize("low", [range(16, 32), range(0, 32, 2)])
def test_split_selects_exactly(low: range, tmp_path: Path) -> None:
    """By 0 and 1, so the channels are the same to the last bit."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split = SplitOctave(32, low)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [y for y in self.split(x) if y is not None]

    torch.manual_seed(0)
    x = torch.randn(2, 32, 8, 8)
    file = tmp_path / "split.onnx"
    graph = _graph(Split(), (x,), file)
    assert {node.op_type for node in graph.node} == {"Conv"}
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    wanted = Split()(x)
    assert len(answers) == len(wanted)
    for got, want in zip(answers, wanted, strict=True):
        if want.shape[2] == 8:
            assert np.array_equal(got, want.numpy())
        else:  # a mean of four, in another order
            np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=4 * 2**-24 * float(x.abs().max()))


def test_wide_values_are_copied() -> None:
    """There a convolution takes longer; and a value that is no image is split as it always was."""
    layers = nn.Sequential(SplitOctave(2 * WIDEST, range(WIDEST)), SplitOctave(WIDEST, range(8)))
    wide, narrow = split_by_convolution(layers)
    assert isinstance(wide, SplitOctave)
    assert isinstance(narrow, SelectingSplit)
    signal = torch.randn(2, WIDEST, 6)
    assert all(map(torch.equal, narrow(signal), SplitOctave(WIDEST, range(8))(signal)))
