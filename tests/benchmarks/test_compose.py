"""A converted model with other tools: int8 quantization, structured pruning, torch.export, plain training."""

from __future__ import annotations

import copy
import importlib
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from torch import Tensor, nn

import octify
from octify.calibrate.fit.renorm import reestimate
from octify.compare.rounding import compare, float32_noise, run
from octify.nn import MergeOctave, OctaveConv2d, SplitOctave, prunable
from octify.nn.channels import Gather
from tests.benchmarks.accuracy.peers import macs
from tests.benchmarks.int8 import logits, quantized
from tests.places import SAMPLES

pytestmark = pytest.mark.usefixtures("short_calibration")

STEPS = 6
HELD_OUT = 200


class Digits(NamedTuple):
    """The trained sample, and its images and labels."""

    original: nn.Module
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def right(self, model: nn.Module) -> int:
        """How many held-out images ``model`` reads correctly."""
        with torch.inference_mode():
            return int((model.eval()(self.test_images).argmax(1) == self.test_labels).sum())


@pytest.fixture(scope="module")
def digits() -> Iterator[Digits]:
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SAMPLES)
        train, test = importlib.import_module("digits_data").load()
        original = importlib.import_module("evaluate_digits").load_original()
    yield Digits(original, *train, test.images[:HELD_OUT], test.labels[:HELD_OUT])
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == SAMPLES:
            del sys.modules[name]


def train(model: nn.Module, digits: Digits, steps: int) -> None:
    """A plain loop on the labels."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3)
    for _ in range(steps):
        chosen = torch.randint(len(digits.labels), (32,), generator=generator)
        loss = F.cross_entropy(model(digits.images[chosen]), digits.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


class Tuned(NamedTuple):
    """A conversion of the digits network that was trained on, and what it was before."""

    result: octify.Result
    before: dict[str, Tensor]
    file: Path


@pytest.fixture(scope="module")
def tuned(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    example = digits.images[:1]
    result = octify.convert(digits.original, example, 0.5)
    before = {name: value.clone() for name, value in result.model.state_dict().items()}
    train(result.model, digits, STEPS)
    file = tmp_path_factory.mktemp("compose") / "octave.onnx"
    return Tuned(result, before, octify.export_onnx(result.model, example, file).path)


# ---------------------------------------------------------------------------------- plain training


def loss_of(model: nn.Module, digits: Digits) -> float:
    with torch.inference_mode():
        return float(F.cross_entropy(model.eval()(digits.test_images), digits.test_labels))


def test_a_plain_loop_lowers_the_loss_and_moves_every_path(digits: Digits, tuned: Tuned) -> None:
    model = tuned.result.model
    untrained = copy.deepcopy(model)
    untrained.load_state_dict(tuned.before)
    assert loss_of(model, digits) < loss_of(untrained, digits)

    trained = dict(model.named_parameters())
    paths = {
        f"{name}.{path}.weight"
        for name, conv in model.named_modules()
        if isinstance(conv, OctaveConv2d)
        for path in conv.recipes
    }
    assert {path.rsplit(".", 2)[1] for path in paths} == {
        "high_to_high",
        "high_to_low",
        "low_to_high",
        "low_to_low",
    }
    assert paths <= set(trained)
    for name, parameter in trained.items():  # Adam moves a weight exactly if it has ever had a gradient
        assert not torch.equal(parameter, tuned.before[name]), name
        assert parameter.isfinite().all(), name


def test_train_updates_norms_and_eval_does_not(digits: Digits, tuned: Tuned) -> None:
    model = copy.deepcopy(tuned.result.model)
    images = digits.images[:8]

    def statistics() -> list[Tensor]:
        return [value.clone() for name, value in model.named_buffers() if "running" in name]

    start = statistics()
    with torch.no_grad():
        model.eval()(images)
        assert all(torch.equal(a, b) for a, b in zip(start, statistics(), strict=True))
        model.train()(images)
    assert start
    assert not any(torch.equal(a, b) for a, b in zip(start, statistics(), strict=True))
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in model.eval().modules())


def test_trained_weights_are_saved_and_loaded(digits: Digits, tuned: Tuned, tmp_path: Path) -> None:
    tuned.result.save(tmp_path / "tuned")
    again = octify.load(tmp_path / "tuned", digits.original).eval()
    images = digits.test_images[:4]
    with torch.inference_mode():
        assert torch.equal(again(images), tuned.result.model(images))

    fresh = octify.convert(digits.original, images[:1], plan=tuned.result.plan).model.eval()
    with torch.inference_mode():
        assert not torch.equal(fresh(images), again(images))
        fresh.load_state_dict(again.state_dict())
        assert torch.equal(fresh(images), again(images))


def test_what_was_trained_is_exported(digits: Digits, tuned: Tuned) -> None:
    assert same(tuned, digits, tuned.file)


def same(tuned: Tuned, digits: Digits, file: Path) -> bool:
    """Whether ``file`` computes what the trained model does on the held-out images, but for its rounding."""
    inputs = (digits.test_images,)
    (expected,) = float32_noise(tuned.result.model, [(inputs, run(tuned.result.model, inputs))])
    return compare(expected, [torch.from_numpy(logits(file, digits.test_images))]).passed


# ----------------------------------------------------------------------------------- int8, onnxruntime


def test_int8_file_is_smaller_and_as_accurate(digits: Digits, tuned: Tuned, tmp_path: Path) -> None:
    """The int8 file against the float octave one, on held-out images (McNemar).

    If both are equally good, of the d images that exactly one of them reads correctly either has a half:
    the difference has the standard deviation sqrt(d). More than three of them against int8 is a loss.
    """
    file = quantized(tuned.file, tmp_path / "int8.onnx", digits.images[:64])
    labels = digits.test_labels.numpy()
    with_float = logits(tuned.file, digits.test_images).argmax(1) == labels
    with_int8 = logits(file, digits.test_images).argmax(1) == labels
    lost, won = int((with_float & ~with_int8).sum()), int((with_int8 & ~with_float).sum())
    assert lost - won <= 3 * math.sqrt(lost + won)
    assert with_float.mean() > 0.5  # or the comparison would be one of two guesses

    # 4 bytes of a weight become 1, and no scale, zero point or node takes back half of that.
    weights = sum(m.weight.numel() for m in tuned.result.model.modules() if isinstance(m, nn.Conv2d))
    assert tuned.file.stat().st_size - file.stat().st_size >= 1.5 * weights


# -------------------------------------------------------------------------------------- Torch-Pruning


class Joint(nn.Module):
    """Converted but for its stem: a split before the sum, a merge before the roll by an odd step."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 12, 3, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (x + self.norm(self.conv(x))).relu()
        return self.head(self.last(x.roll(1, 2)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def joint() -> tuple[nn.Module, Tensor]:
    """A conversion with low channels here and there, in float64, and an input."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    model = octify.convert(
        Joint().eval(),
        x[:1],
        rules="everywhere",
        exclude=["stem.0"],
        calibration=[torch.randn(16, 3, 16, 16)],
        effort="norm",
        channel_order="energy",
    ).model
    kinds = [type(module) for module in model.modules()]
    assert SplitOctave in kinds and MergeOctave in kinds
    assert any(not gather.contiguous for gather in model.modules() if isinstance(gather, Gather))
    return model.eval().double(), x.double()


def test_a_prunable_copy_computes_the_same(joint: tuple[nn.Module, Tensor]) -> None:
    model, x = joint
    made = prunable(model)
    assert not any(isinstance(module, Gather) for module in made.modules())
    assert any(isinstance(module, Gather) for module in model.modules())  # the model is left as it was
    assert torch.equal(made(x), model(x))  # 1 * x + 0 * y + ... is x


def test_removing_channels_that_are_zero_changes_nothing(joint: tuple[nn.Module, Tensor]) -> None:
    """So Torch-Pruning removes the same channels everywhere: in all paths, behind splits and merges."""
    model = prunable(joint[0])
    x = joint[1]
    removed = 0
    graph = torch_pruning.DependencyGraph().build_dependency(model, x)
    for group in list(graph.get_all_groups(ignored_layers=[model.get_submodule("head")])):
        root = group[0]
        chosen = graph.get_pruning_group(root.dep.target.module, root.dep.handler, idxs=[0, 2])
        _silence(graph, chosen)
        with torch.no_grad():
            wanted = model(x)
            chosen.prune()
            got = model(x)
        # Sums of the same terms in another order, some 150 of them, a few layers deep.
        assert (got - wanted).abs().max() <= 1e3 * torch.finfo(x.dtype).eps * wanted.abs().max()
        removed += 1
    assert removed >= 4  # the stem, high and low of ``conv``, ``last``
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        assert conv.out_channels == conv.weight.shape[0]


def _silence(graph: Any, group: Any) -> None:
    """Make the outputs of everything that produces the channels of ``group`` zero there."""
    for dependency, channels in group:
        module = dependency.target.module
        if not graph.is_out_channel_pruning_fn(dependency.handler):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data[channels] = 0


def pruned(model: nn.Module, example: Tensor, ratio: float) -> nn.Module:
    """A copy without a share ``ratio`` of the channels of every coupled set, those of least magnitude."""
    model = copy.deepcopy(model)
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[model.get_submodule("classifier")],
    )
    pruner.step()
    return model.eval()


def test_a_converted_network_is_pruned_further(digits: Digits, tuned: Tuned) -> None:
    example = digits.images[:1]
    model = pruned(prunable(tuned.result.model), example, 0.1)
    assert 0.7 < macs(model, example) / macs(tuned.result.model, example) < 0.8

    left, whole = digits.right(model), digits.right(tuned.result.model)
    train(model, digits, STEPS)
    reached = digits.right(model)
    assert left < reached
    assert whole - reached < 0.1 * HELD_OUT  # one in ten, after seconds of training


def test_a_pruned_network_is_converted(digits: Digits) -> None:
    """Pruned first, it is one more network: its MACs fall twice, and exact kernels are exact."""
    example = digits.images[:1]
    model = pruned(digits.original, example, 0.25)
    reestimate(model, [(digits.images[:64],)])
    result = octify.convert(model, example, 0.5)
    totals = result.report.to_dict()["totals"]
    assert totals["macs_before"] == macs(model, example) < 0.7 * macs(digits.original, example)
    assert totals["macs_after"] == macs(result.model, example) < 0.7 * totals["macs_before"]

    model, images = model.double(), digits.test_images[:4].double()
    exact = octify.convert(model, images, 0.5, kernels="exact")
    with torch.no_grad():
        a, b = exact.model(images), octify.reference(model, exact.plan, images)(images)
    # Sums of some 500 terms in another order, 14 layers deep.
    assert (a - b).abs().max() <= 1e4 * torch.finfo(a.dtype).eps * b.abs().max()


# ------------------------------------------------------------------------------------------- PyTorch's own


def test_torch_export_captures_a_converted_network(joint: tuple[nn.Module, Tensor]) -> None:
    model, x = joint
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        assert torch.equal(program.module()(x), model(x))
        assert torch.equal(program.module()(x[:3]), model(x[:3]))


def test_dynamic_quantization_of_the_linear_layers(digits: Digits, tuned: Tuned) -> None:
    """Weights and inputs of ``classifier`` are rounded to 8 bits, and nothing else changes.

    Rounding to a grid of step s moves a value by s / 2 at most, so ``W x`` moves by at most
    ``(|W| s_x / 2 + |x| s_W / 2 + s_x s_W / 4)``, summed over the inputs.
    """
    model = tuned.result.model.eval()
    features: list[Tensor] = []
    classifier = model.get_submodule("classifier")
    handle = classifier.register_forward_hook(lambda module, args, y: features.append(args[0]))
    images = digits.test_images[:16]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization announces its end
        wanted = model(images)
        handle.remove()
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        got = small(images)
    weight, x = classifier.get_parameter("weight").detach(), features[0]
    step_w = 2 * weight.abs().max() / 255
    # Of dynamic inputs the range holds zero and, in the kernel, 7 bits.
    step_x = (x.max().clamp(min=0) - x.min().clamp(max=0)) / 127
    bound = (weight.abs().sum(1) * step_x + x.abs().sum(1, keepdim=True) * step_w) / 2
    bound = bound + x.shape[1] * step_x * step_w / 4
    assert not isinstance(small.get_submodule("classifier"), nn.Linear)
    assert ((got - wanted).abs() <= bound).all()
    assert not torch.equal(got, wanted)
