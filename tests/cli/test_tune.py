"""``octify tune``: what it writes, stopping and resuming, several processes, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import octify as library
from octify.artefact import origin as artefact
from tests.cli.conftest import Octify, Signalled

Refused = Callable[..., str]
Start = Callable[..., subprocess.Popen[str]]

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(torch.relu(self.stem(x)))))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))

def model():
    return Net()
example_inputs = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
"""
DATA = """\
import os, pathlib, time
import numpy as np
import torch
class Dataset(torch.utils.data.Dataset):
    def __init__(self):
        saved = np.load("x.npz")
        self.x, self.y = torch.from_numpy(saved["inputs"]), saved["labels"]
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        time.sleep(float(os.environ.get("SLOWLY", 0)))
        return self.x[i] + 0.1 * torch.randn(3, 12, 12), self.y[i]
dataset = Dataset
"""


@pytest.fixture
def folder(octify: Octify, tmp_path: Path) -> Path:
    """``out``, a conversion of ``net.py`` with weights of its own, and labelled inputs in ``x.npz``."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "data.py").write_text(DATA)
    torch.manual_seed(1)
    shapes = {"stem": (16, 3, 3, 3), "conv1": (16, 16, 3, 3), "conv2": (16, 16, 3, 3), "fc": (4, 16)}
    state = {f"{name}.weight": 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    state |= {f"bn1.{name}": torch.ones(16) for name in ("weight", "running_var")}
    state |= {f"bn1.{name}": torch.zeros(16) for name in ("bias", "running_mean")}
    save_file(state, tmp_path / "net.safetensors")
    labelled(tmp_path / "x.npz", 40)
    arguments = ("--weights", "net.safetensors", "--rules", "everywhere", "-o", "out", "-q")
    assert octify("convert", "net.py:model", *arguments).code == 0
    return tmp_path / "out"


def labelled(path: Path, count: int, shape: tuple[int, ...] = (3, 12, 12), most: int = 4) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, *shape), dtype=np.float32)
    np.savez(path, inputs=x, labels=generator.integers(0, most, count))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_tuned_folder(
    octify: Octify, folder: Path, tmp_path: Path, listing: Callable[[], set[str]]
) -> None:
    before, files = weights(folder), listing()
    outcome = octify("tune", "out", "--data", "x.npz", "--steps", "30", "--labels", "none", "--json")
    assert outcome.code == 0, outcome.err
    names = ("plan.json", "report.json", "source.json", "weights.safetensors")
    assert listing() - files == {"out-tuned", *(f"out-tuned/{name}" for name in names)}
    assert all(torch.equal(value, weights(folder)[name]) for name, value in before.items())
    row = outcome.json["tuning"]
    assert (row["steps"], row["batch"], row["labels"], row["precision"]) == (30, 32, False, "no")
    assert (row["images"], row["measured_on"], row["held_out"]) == (36, 4, True)
    assert row["accuracy_after"] is None
    # The reported figure is that of the folder that was written.
    report = json.loads((tmp_path / "out-tuned" / "report.json").read_text())
    assert report["tuning"] == [row]
    assert report["totals"] == json.loads((folder / "report.json").read_text())["totals"]
    assert not any("not calibrated" in warning for warning in report["warnings"])
    # It is a folder like any other: named originals are found from it, it is exported and tuned again.
    assert octify("export", "out-tuned", "tuned.onnx").code == 0
    again = octify("tune", "out-tuned", "--data", "x.npz", "--steps", "2", "-o", "deep/er")
    assert again.code == 0, again.err
    assert "relative output error" in again.out
    assert "wrote deep/er" in again.out
    assert "accuracy" in again.out  # the labels are used by default
    rows = json.loads((tmp_path / "deep" / "er" / "report.json").read_text())["tuning"]
    assert [row["labels"] for row in rows] == [False, True]
    assert rows[1]["before"]["relative_error"] != rows[0]["before"]["relative_error"]
    assert artefact.read_origin(tmp_path / "deep" / "er") == artefact.read_origin(folder)


def test_in_place(octify: Octify, folder: Path, listing: Callable[[], set[str]]) -> None:
    (folder / "model.onnx").write_bytes(b"of the old weights")
    before, files = weights(folder), listing()
    outcome = octify("tune", "out", "--data", "x.npz", "--steps", "2", "-o", "out")
    assert outcome.code == 0, outcome.err
    assert "model.onnx is of the weights before tuning" in outcome.err
    assert listing() == files
    assert not all(torch.equal(value, weights(folder)[name]) for name, value in before.items())
    spec = importlib.util.spec_from_file_location("net", folder.parent / "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert library.load(folder, module.model())(module.example_inputs).isfinite().all()


@pytest.mark.slow
def test_a_run_that_was_stopped_three_times_ends_as_one_that_was_not(
    octify: Octify, folder: Path, tmp_path: Path, signalled: Signalled, listing: Callable[[], set[str]]
) -> None:
    command = ("tune", "out", "--data", "data.py:dataset", "--steps", "40", "--batch", "8")
    command = (*command, "--checkpoint-every", "3", "--labels", "required", "--norm", "batch", "-o")
    checkpoint = tmp_path / "stopped.checkpoint.safetensors"
    files = listing()
    step = 0
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        resume = ("--resume",) if step else ()
        returncode, out, err = signalled(
            number,
            *(*command, "stopped", *resume),
            once=lambda done=step: step_of(checkpoint) > done,
            begin=240,
            end=60,
            env={"SLOWLY": "0.02"},  # 0.16 s a step
        )
        assert returncode == code, err
        assert out == ""
        assert "Traceback" not in err
        assert ("--resume goes on from there" in err) == (number != signal.SIGKILL)
        left = {name for name in listing() - files if ".partial" not in name}
        assert left == {"stopped.checkpoint.safetensors"}
        step = step_of(checkpoint)
    refused = octify(*command, "stopped")
    assert refused.code == 2
    assert "--resume to go on from it" in refused.err
    resumed = octify(*command, "stopped", "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["tuning"]["resumed_at"] == step
    assert 0 < step < 40
    assert octify(*command, "whole").code == 0
    assert same(tmp_path / "stopped", tmp_path / "whole")
    assert not checkpoint.exists()


def step_of(checkpoint: Path) -> int:
    """Steps done according to a checkpoint; 0 without one."""
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return int(json.loads(file.metadata()["octify"])["step"])


@pytest.mark.slow
def test_accelerate_launch(octify: Octify, folder: Path, tmp_path: Path, start: Start) -> None:
    command = ("tune", "out", "--data", "x.npz", "--steps", "4", "--batch", "7", "--json")
    # Accelerate starts several CPU processes itself only with mpirun; what --multi_gpu starts uses CPUs
    # when it is told to.
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    more = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    process = start(
        *(*launch, *more, "--module", "octify", *command, "-o", "two"),
        env={"HF_HOME": str(tmp_path / "hf"), "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    two = json.loads(out)["tuning"]  # one document, of the first process
    assert two["processes"] == 2
    one = octify(*command, "-o", "one").json["tuning"]
    # float32 sums in another order, and AdamW enlarges the rounding of small gradients.
    for name, value in weights(tmp_path / "one").items():
        assert torch.allclose(value, weights(tmp_path / "two")[name], atol=2e-4), name
    assert two["after"]["relative_error"] == pytest.approx(one["after"]["relative_error"], rel=1e-2)
    assert two["measured_on"] == one["measured_on"]


def test_a_folder_of_classes(octify: Octify, folder: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for c in "abcd":
        (tmp_path / "photos" / c).mkdir(parents=True)
        for i in range(5):
            pixels = generator.integers(0, 255, (20, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / c / f"{i}.png")
    outcome = octify("tune", "out", "--data", "photos", "--steps", "2", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["tuning"]["labels"]
    assert "a guess" in outcome.err  # of mean and deviation
    shutil.rmtree(tmp_path / "photos" / "d")
    (tmp_path / "photos" / "a" / "4.png").write_bytes(b"no image")
    command = ("tune", "out", "--data", "photos", "--steps", "3", "--mean", ".5", "--std", ".2", "--json")
    outcome = octify(*command, "-o", "three", "--eval", "0.5")
    assert outcome.code == 2  # 15 images
    (tmp_path / "photos" / "c" / "5.png").write_bytes((tmp_path / "photos" / "c" / "0.png").read_bytes())
    outcome = octify(*command, "-o", "three", "--eval", "0.5")
    assert outcome.code == 0, outcome.err
    assert not outcome.json["tuning"]["labels"]
    warnings = " ".join(outcome.json["warnings"])
    assert "there are 3 class folders, and the model has 4 classes" in warnings
    assert "1 image(s) could not be read" in warnings
    assert "4.png" in warnings


def break_nothing(folder: Path) -> None:
    """The folder as it is."""


def move_source(folder: Path) -> None:
    folder.with_name("net.py").rename(folder.with_name("moved.py"))


def move_weights(folder: Path) -> None:
    folder.with_name("net.safetensors").rename(folder.with_name("moved.safetensors"))


def no_source(folder: Path) -> None:
    (folder / "source.json").unlink()


def break_report(folder: Path) -> None:
    (folder / "report.json").write_text("{")


def break_weights(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(b"x")


X = ("--data", "x.npz")


@pytest.mark.parametrize(
    ("breaking", "arguments", "told"),
    [
        (break_nothing, ("nowhere", *X), "nowhere is not a folder that octify wrote"),
        (break_nothing, ("hf", *X), "hf is not a folder that octify wrote"),
        (move_source, ("out", *X), "no such file: net.py"),
        (move_weights, ("out", *X), "no such weights file: net.safetensors"),
        (no_source, ("out", *X), "does not say which model it was made from"),
        (break_report, ("out", *X), "report.json cannot be read"),
        (break_weights, ("out", *X), "the weights cannot be read"),
        (break_nothing, ("out", "--data", "nothing.npz"), "no such training data: nothing.npz"),
        (break_nothing, ("out", "--data", "synthetic"), "tune needs data"),
        (break_nothing, ("out", "--data", "net.py"), "which loader in net.py?"),
        (break_nothing, ("out", "--data", "hf"), "there are no images in hf"),
        (break_nothing, ("out", "--data", "wide.npz"), "has shape 20x5x12x12"),
        (break_nothing, ("out", "--data", "flat.npz"), "holds no tensor of 4 dimensions"),
        (break_nothing, ("out", "--data", "nan.npz"), "values that are not finite"),
        (break_nothing, ("out", "--data", "ten.npz"), "out of range, such as"),
        (break_nothing, ("out", "--data", "few.npz"), "15 input(s) are too few"),
        (break_nothing, ("out", "--data", "x.npy", "--labels", "required"), "no labels to train with"),
        (break_nothing, ("out", "--data", "x.npy", "--distill-weight", ".5"), "needs labels"),
        (break_nothing, ("out", *X, "--steps", "0"), "--steps is 0"),
        (break_nothing, ("out", *X, "--eval", "1"), "--eval is 1"),
        (break_nothing, ("out", *X, "--lr", "-1"), "--lr is -1"),
        (break_nothing, ("out", *X, "-o", "hf2"), "hf2 is not empty, and not a folder that octify wrote"),
        (break_nothing, ("out", *X, "-o", "net.py"), "cannot write net.py"),
        (break_nothing, ("out", *X, "--precision", "fp16"), "--precision fp16 cannot be had here"),
        (break_nothing, ("out", *X, "--mean", "x"), "--mean is 'x'"),
    ],
)
def test_bad_input(
    refused: Refused,
    folder: Path,
    tmp_path: Path,
    listing: Callable[[], set[str]],
    breaking: Callable[[Path], None],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    if "fp16" in arguments and torch.cuda.is_available():
        pytest.skip("a GPU has fp16")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf2").mkdir()
    (tmp_path / "hf2" / "letter.txt").write_text("dear")
    labelled(tmp_path / "wide.npz", 20, (5, 12, 12))
    labelled(tmp_path / "flat.npz", 20, (12,))
    labelled(tmp_path / "few.npz", 15)
    labelled(tmp_path / "ten.npz", 30, most=10)
    x = np.load(tmp_path / "x.npz")["inputs"]
    np.save(tmp_path / "x.npy", x)
    x[7, 1, 2, 3] = np.nan
    np.savez(tmp_path / "nan.npz", inputs=x)
    breaking(folder)
    files = listing()
    steps = () if "--steps" in arguments else ("--steps", "2")
    assert told in refused("tune", *arguments, *steps)
    assert listing() == files


def test_a_checkpoint_of_another_run(
    refused: Refused, octify: Octify, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from octify.tune.run import Run

    real = Run.step

    def step(self: Run, step: int) -> float:
        if step == 1:
            signal.raise_signal(signal.SIGINT)
        return real(self, step)

    command = ("tune", "out", *X, "--steps", "4")
    with monkeypatch.context() as patched:
        patched.setattr(Run, "step", step)
        outcome = octify(*command)
    assert outcome.code == 130
    assert "stopped after step 2 of 4" in outcome.err
    assert "of another run: seed differs" in refused(*command, "--resume", "--seed", "1")
    assert "of another run: data, held_out differ" in refused(
        *("tune", "out", "--data", "data.py:dataset", "--steps", "4", "--resume"),
        *("--augment", "shift", "--eval", "0.2"),
    )
    state = weights(folder)
    state["fc.bias"] += 1
    save_file(state, folder / "weights.safetensors")
    assert "of another run: weights differs" in refused(*command, "--resume")


def test_the_original_may_have_moved(octify: Octify, folder: Path, tmp_path: Path) -> None:
    move_source(folder)
    move_weights(folder)
    more = ("--model", "moved.py:model", "--weights", "moved.safetensors")
    outcome = octify("tune", "out", *X, "--steps", "1", *more)
    assert outcome.code == 0, outcome.err
    assert octify("tune", "out-tuned", *X, "--steps", "1").code == 0  # it says where they are now


def test_without_accelerate(refused: Refused, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "accelerate" else real(name, *rest)
    )
    told = refused("tune", "out", *X, "--steps", "1")
    assert "needs Hugging Face Accelerate" in told
    assert "pip install 'octify[tune]'" in told
    assert len(told.splitlines()) == 2


def test_only_the_command_needs_accelerate(start: Start) -> None:
    code = "import sys, octify.cli.main; sys.exit(' '.join({'accelerate', 'torch'} & set(sys.modules)) or 0)"
    assert start("-c", code).wait() == 0
