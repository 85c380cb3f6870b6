"""The sample models build, run, and stay what the README says they are."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SAMPLES = Path(__file__).resolve().parent.parent / "samples"

# name, example input, output
MODELS = [
    ("resnet", (1, 3, 224, 224), (1, 1000)),
    ("vgg", (1, 3, 224, 224), (1, 1000)),
    ("mobilenetv2_se", (1, 3, 224, 224), (1, 1000)),
    ("unet", (1, 3, 256, 256), (1, 2, 256, 256)),
    ("digits_resnet", (1, 1, 32, 32), (1, 10)),
]


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch):
    """Import a sample afresh, as running a script beside it would: ``sample("resnet")``."""
    monkeypatch.syspath_prepend(SAMPLES)
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == SAMPLES:
            del sys.modules[name]


@pytest.mark.parametrize(("name", "input_shape", "output_shape"), MODELS)
def test_runs_at_its_example_input(sample, name, input_shape, output_shape):
    module = sample(name)
    torch.manual_seed(0)
    model = module.build_model().eval()
    torch.manual_seed(0)
    again = module.build_model().eval()
    with torch.inference_mode():
        y = model(*module.example_inputs)
        y_again = again(*sample(name).example_inputs)
        y_two = model(torch.cat([module.example_inputs[0]] * 2))

    assert tuple(module.example_inputs[0].shape) == input_shape
    assert tuple(y.shape) == output_shape
    assert y.isfinite().all()
    assert y.std() > 1e-3, "outputs all alike would hide errors of a conversion"
    assert torch.equal(y, y_again)
    assert tuple(y_two.shape) == (2, *output_shape[1:])


@pytest.mark.parametrize("name", [name for name, _, _ in MODELS])
def test_is_self_contained(name):
    """A sample shows a user's own file: it knows torch and nothing else, least of all octify."""
    tree = ast.parse((SAMPLES / f"{name}.py").read_text())
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in imported} == {"__future__", "torch"}


def test_digits_split_is_disjoint_and_complete(sample):
    train, test = sample("digits_data").load()
    assert (len(train), len(test)) == (1297, 500)
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 32, 32)
    assert train.images.min() >= 0
    assert train.images.max() <= 1
    # scikit-learn's set has no two identical images, so the parts share none exactly if they share no index.
    seen = {image.numpy().tobytes() for image in train.images}
    assert len(seen) == len(train)
    assert not any(image.numpy().tobytes() in seen for image in test.images)


def test_digits_accuracy_of_the_weights_beside_it(sample):
    """`train_digits.py` printed 499 of 500 for these weights; rounding may flip one or two close calls."""
    _, test = sample("digits_data").load()
    evaluate = sample("evaluate_digits")
    correct = int((evaluate.predict(evaluate.load_original(), test.images) == test.labels).sum())
    assert correct >= 497


def test_digits_weights_are_small_and_float32(sample):
    file = SAMPLES / "digits_resnet.safetensors"
    assert file.stat().st_size < 1_500_000
    state = sample("evaluate_digits").load_original().state_dict()
    assert {t.dtype for t in state.values()} == {torch.float32, torch.int64}  # int64: num_batches_tracked


def test_evaluate_digits_prints_the_held_out_size(sample, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate_digits.py"])
    sample("evaluate_digits").main()
    out = capsys.readouterr().out
    assert "500 held-out images" in out
    assert "original" in out
    assert "100.0%" in out  # it agrees with itself


def test_training_lowers_the_loss(sample, monkeypatch, capsys):
    """Two epochs on 256 images: the script still works. (The whole of it takes minutes.)"""
    training, data = sample("train_digits"), sample("digits_data")
    monkeypatch.setattr(training, "EPOCHS", 2)
    torch.manual_seed(0)
    train, _ = data.load()
    training.train(sample("digits_resnet").build_model(), data.Digits(train.images[:256], train.labels[:256]))
    first, last = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert last < first
