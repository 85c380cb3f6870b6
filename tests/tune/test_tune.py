"""Tuning: what is minimised, on one process and on two; resuming; data and labels in every form."""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import octify
from octify.calibrate.fit.renorm import reestimate
from octify.compare.loss import label_loss, output_loss, relative_loss
from octify.compare.outputs import compare, outputs
from octify.data.format import ImageFormat
from octify.errors import CheckFailed, OctifyError
from octify.trace.facts import InputSpec
from octify.tune.augment import augmented
from octify.tune.data import Batch, hold, open_samples
from octify.tune.loop import Tuned, tune
from octify.tune.measure import measure
from octify.tune.options import Options
from octify.tune.order import picked, share_of, split
from octify.tune.run import Run
from tests.places import ROOT
from tests.tune import case


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return case.original()


def run(student: nn.Module, teacher: nn.Module, path: Path, options: Options, **more: Any) -> Tuned:
    return tune(student, teacher, case.samples(), options, checkpoint=path / "c.safetensors", **more)


# What is minimised


@pytest.mark.parametrize("shapes", [[(6, 5)], [(6, 3, 4, 4)], [(6, 5), (6, 2, 3)]])
def test_the_distillation_loss_is_calibrations(shapes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in "ab")
    assert torch.allclose(output_loss(a, b, lambda x: x), relative_loss(a, b), rtol=1e-12)


def test_a_single_output_is_not_centred_away() -> None:
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]])
    assert output_loss([a], [b], lambda x: x) == pytest.approx(10 * (4 + 9) / 2)  # targets -1 and 1


def test_labels_of_minus_100_do_not_count() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    some = labels.clone()
    some[0] = -100
    whole = label_loss(logits[1:], labels[1:], lambda x: x)
    assert torch.allclose(label_loss(logits, some, lambda x: x), whole, rtol=1e-12)
    assert torch.allclose(whole, nn.functional.cross_entropy(logits[1:], labels[1:]), rtol=1e-12)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_and_end_alike(tmp_path: Path) -> None:
    """On the joint batch of seven, three and four for each: a mean of means would be wrong."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        env = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        command = [sys.executable, "-m", "tests.tune.case", str(tmp_path)]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, told = process.communicate(timeout=240)
        assert process.returncode == 0, told
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = case.gradients(case.OPTIONS)
    assert first["gradients"].keys() == alone.keys()
    assert all(float(g.abs().max()) > 0 for g in alone.values())
    for name, gradient in alone.items():
        for found in (first, second):
            # Sums of some thousand terms in float64.
            assert torch.allclose(found["gradients"][name], gradient, rtol=1e-9, atol=1e-13), name
    expected = case.weights(case.OPTIONS, tmp_path / "alone.safetensors")
    start = case.converted(case.original()).state_dict()
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
        # AdamW divides by the gradient's size, and so enlarges the rounding of small ones.
        assert torch.allclose(value, expected[name], rtol=1e-6, atol=1e-9), name
    assert any(not torch.allclose(v, expected[n], rtol=1e-4) for n, v in start.items())


# What comes out


def test_distillation_lowers_the_output_error(teacher: nn.Module, tmp_path: Path) -> None:
    state = copy.deepcopy(teacher.state_dict())
    student = case.converted(teacher)
    found = run(student, teacher, tmp_path, Options(steps=60, labels="none", held_out=0.25))
    assert (found.images, found.measured_on, found.held_out) == (48, 16, True)
    assert (found.labelled, found.distill_weight, found.augment) == (False, 1.0, "flip")
    assert found.after.relative_error < 0.7 * found.before.relative_error
    assert found.before.accuracy is None
    assert not student.training
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, state[name]), name
    # The figures are calibration's, of the very inputs that were kept aside.
    rows = split(64, 0.25, 0)
    chunk = (case.samples().read(rows.held_out, []).inputs[0],)
    same = compare(outputs(teacher, [chunk]), outputs(student, [chunk]), held_out=True)
    assert found.after.relative_error == pytest.approx(same.relative_error, rel=1e-5)  # that one is float32
    assert found.after.agreement == same.agreement


def test_labels_alone_raise_the_accuracy_of_a_bad_model(teacher: nn.Module, tmp_path: Path) -> None:
    student = case.converted(teacher)
    with torch.no_grad():
        for parameter in student.head.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    found = run(student, teacher, tmp_path, Options(steps=60, distill_weight=0, lr=1e-2, held_out=0.25))
    assert found.labelled
    assert found.augment == "shift"
    assert found.after.accuracy is not None
    assert found.before.accuracy is not None
    assert found.after.accuracy > found.before.accuracy + 0.2


@pytest.mark.parametrize("norm", ["frozen", "reestimated", "batch"])
def test_batch_norm_statistics(teacher: nn.Module, tmp_path: Path, norm: Any) -> None:
    student, other = case.converted(teacher), case.converted(teacher)
    options = Options(steps=2, batch=16, norm=norm)
    run(student, teacher, tmp_path, options)
    if norm == "reestimated":
        data = case.samples()
        rows = split(data.count, options.held_out, 0).train
        numbers = picked(rows, len(rows), 0, 0)
        reestimate(other, [data.read(numbers[i : i + 16], []).inputs for i in range(0, len(numbers), 16)])
    found = {k: torch.equal(v, other.state_dict()[k]) for k, v in student.state_dict().items()}
    statistics = [same for name, same in found.items() if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert set(statistics) == {norm != "batch"}
    assert not any(same for name, same in found.items() if name.endswith("weight"))


def test_half_precision_leaves_float32_weights(teacher: nn.Module, tmp_path: Path) -> None:
    single = copy.deepcopy(teacher).float()
    student = case.converted(single)
    data = hold([case.images(32, 2)[0].float()], [InputSpec((1, 2, 12, 12), "float32")])
    options = Options(steps=20, precision="bf16", batch=16)
    found = tune(student, single, data, options, checkpoint=tmp_path / "c.safetensors")
    assert found.precision == "bf16"
    assert found.after.relative_error < found.before.relative_error
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert student(case.images(2, 3)[0].float()).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has fp16")
def test_fp16_needs_a_gpu(teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(OctifyError, match="--precision fp16 cannot be had here"):
        run(case.converted(teacher), teacher, tmp_path, Options(steps=2, precision="fp16"))


def test_divergence_is_an_error_and_no_checkpoint(teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="not finite at step"):
        run(case.converted(teacher), teacher, tmp_path, Options(steps=30, lr=1e200, warmup=0))
    assert not (tmp_path / "c.safetensors").exists()


def test_what_looks_wrong_is_told(teacher: nn.Module, tmp_path: Path) -> None:
    x, y = case.images(64, 2)
    wrong = hold([(x, (y + 1) % case.CLASSES)], case.SPECS)
    told: list[str] = []
    path = tmp_path / "c.safetensors"
    options = Options(steps=110, batch=16, lr=1e-9, checkpoint_every=0)
    small = replace(options, steps=1)
    tune(case.converted(teacher), teacher, wrong, small, checkpoint=path, warn=told.append)
    assert any("are the classes numbered" in warning for warning in told)
    few = hold([x[:18]], case.SPECS)
    found = tune(case.converted(teacher), teacher, few, options, checkpoint=path)
    assert any("is seen 110 times" in warning for warning in found.warnings)


# Stopping and resuming


def stopped(monkeypatch: pytest.MonkeyPatch, after: int, number: signal.Signals) -> None:
    """Let a signal arrive in the middle of the step behind the ``after``-th."""
    real = Run.step

    def step(self: Run, step: int) -> float:
        if step == after:
            signal.raise_signal(number)
        return real(self, step)

    monkeypatch.setattr(Run, "step", step)


@pytest.mark.parametrize(
    "more", [{}, {"norm": "batch", "labels": "none"}, {"norm": "reestimated", "lr": 1e-2}]
)
def test_a_stopped_run_goes_on_to_the_same_result(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    options = Options(steps=9, batch=10, warmup=2, weight_decay=0.1, **more)
    whole = case.weights(options, tmp_path / "whole.safetensors")
    for after in (4,) if more else (0, 4, 8):  # 8 is the last step: only the measurement is left
        path = tmp_path / f"{after}.safetensors"
        with monkeypatch.context() as patched:
            stopped(patched, after, signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                case.weights(options, path)
        torch.rand(after + 1)  # where the global generator stands does not matter
        resumed = case.weights(replace(options, checkpoint_every=3), path, resume=True)
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_second_ctrl_c_stops_at_once(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Run, step: int) -> float:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run(case.converted(teacher), teacher, tmp_path, Options(steps=3))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_run_is_refused(teacher: nn.Module, tmp_path: Path) -> None:
    options = Options(steps=2)
    run(case.converted(teacher), teacher, tmp_path, options, identity={"plan": "this"})
    for change, name in (
        ({"seed": 1}, "seed"),
        ({"steps": 3}, "steps"),
        ({"lr": 1e-4}, "lr"),
        ({"norm": "batch"}, "norm"),
        ({"distill_weight": 0.25}, "distill_weight"),
    ):
        other = replace(options, **change)  # type: ignore[arg-type]
        with pytest.raises(OctifyError, match=f"of another run: {name} differs"):
            run(case.converted(teacher), teacher, tmp_path, other, resume=True, identity={"plan": "this"})
    with pytest.raises(OctifyError, match="of another run: plan differs"):
        run(case.converted(teacher), teacher, tmp_path, options, resume=True, identity={"plan": "that"})
    data = case.samples(65)
    with pytest.raises(OctifyError, match="of another run: data differs"):
        path = tmp_path / "c.safetensors"
        same = {"plan": "this"}
        student = case.converted(teacher)
        tune(student, teacher, data, options, checkpoint=path, resume=True, identity=same)


def test_a_checkpoint_that_cannot_be_read(teacher: nn.Module, tmp_path: Path) -> None:
    options = Options(steps=2)
    with pytest.raises(OctifyError, match="there is no checkpoint"):
        run(case.converted(teacher), teacher, tmp_path, options, resume=True)
    run(case.converted(teacher), teacher, tmp_path, options)
    path = tmp_path / "c.safetensors"
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(broken)
        with pytest.raises(OctifyError, match="not a checkpoint that can be read"):
            run(case.converted(teacher), teacher, tmp_path, options, resume=True)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(OctifyError, match="not a checkpoint that can be read"):
        run(case.converted(teacher), teacher, tmp_path, options, resume=True)


# Order, augmentation, schedule


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 12), st.integers(0, 3))
def test_every_row_comes_equally_often(count: int, batch: int, steps: int, seed: int) -> None:
    rows = [3 * i for i in range(count)]
    seen = [row for step in range(steps) for row in picked(rows, batch, step, seed)]
    counts = Counter(seen)
    assert len(seen) == batch * steps
    assert set(counts) <= set(rows)
    assert max(counts.values()) - min(counts.get(row, 0) for row in rows) <= 1


@given(st.integers(16, 3000), st.floats(0, 0.9), st.integers(0, 3))
def test_the_split_is_one(count: int, share: float, seed: int) -> None:
    found = split(count, share, seed)
    assert sorted(found.train + found.held_out) == list(range(count))
    assert found.train
    assert len(found.held_out) <= 2000
    assert bool(found.held_out) == bool(share)


@given(st.integers(1, 50), st.integers(1, 8))
def test_the_parts_of_a_batch_are_the_batch(count: int, processes: int) -> None:
    parts = [range(count)[share_of(count, p, processes)] for p in range(processes)]
    assert [row for part in parts for row in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 5), st.sampled_from(["shift", "flip"]))
def test_moves_do_not_depend_on_the_cut_and_labels_move_along(
    size: int, cut: int, seed: int, kind: Any
) -> None:
    cut = min(cut, size)
    x = torch.randn(size, 2, 16, 11, generator=torch.Generator().manual_seed(seed))
    labels = (x[:, 0] * 100).long()
    whole = augmented(Batch((x, x[:, :1]), labels), kind, seed, slice(0, size), size)
    assert whole.labels is not None
    assert torch.equal((whole.inputs[0][:, 0] * 100).long(), whole.labels)
    assert torch.equal(whole.inputs[0][:, :1], whole.inputs[1])
    for part in (slice(0, cut), slice(cut, size)):
        some = augmented(Batch((x[part],), None), kind, seed, part, size)
        assert torch.equal(some.inputs[0], whole.inputs[0][part])
    for before, after in zip(x, whole.inputs[0], strict=True):
        assert set(after.flatten().tolist()) <= set(before.flatten().tolist())


def test_a_shift_shifts_and_a_flip_flips() -> None:
    x = torch.arange(16.0).expand(64, 1, 16, 16)
    shifted = augmented(Batch((x,), None), "shift", 0, slice(0, 64), 64).inputs[0]
    steps = {tuple(row[0, 3, 5:11].diff().tolist()) for row in shifted}
    assert steps == {(1.0,) * 5}
    assert {float(row[0, 3, 5]) - 5 for row in shifted} == {-2.0, -1.0, 0.0, 1.0, 2.0}
    flipped = augmented(Batch((x,), None), "flip", 0, slice(0, 64), 64).inputs[0]
    assert {tuple(row[0, 3, 5:11].diff().tolist()) for row in flipped} == {(1.0,) * 5, (-1.0,) * 5}


@given(st.integers(1, 300), st.data())
def test_the_learning_rate_rises_and_falls(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.none() | st.integers(0, steps))
    options = Options(steps=steps, lr=0.5, warmup=warmup)
    rates = [options.rate(step) for step in range(steps)]
    warm = max(1, steps // 20) if warmup is None else warmup
    assert all(0 < rate <= 0.5 for rate in rates)
    assert all(a >= b for a, b in zip(rates[warm:], rates[warm + 1 :], strict=False))
    assert rates[-1] <= rates[max(0, warm - 1)]


# Data


def images(folder: Path, classes: int, each: int = 6) -> ImageFormat:
    generator = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            pixels[:, :, 0] = 60 * c  # the label can be read from the pixels
            Image.fromarray(pixels).save(folder / f"class{c}" / f"{i}.png")
    return ImageFormat(3, 12, (12, 12), (0.0,) * 3, (1.0,) * 3, False)


RGB = (InputSpec((1, 3, 12, 12), "float32"),)


def test_class_folders_are_labels(tmp_path: Path) -> None:
    form = images(tmp_path, 3)
    data = open_samples(str(tmp_path), RGB, form)
    assert (data.count, data.labelled, data.classes) == (18, True, ("class0", "class1", "class2"))
    batch = data.read([5, 0, 17], [0, 0, 0])
    assert batch.labels is not None
    assert torch.equal((batch.inputs[0][:, 0, 0, 0] * 255 / 60).round().long(), batch.labels)


def test_a_neighbour_stands_in_for_a_corrupt_image(tmp_path: Path) -> None:
    form = images(tmp_path, 2)
    data = open_samples(str(tmp_path), RGB, form)
    whole = data.read(range(12), [0] * 12)
    (tmp_path / "class1" / "2.png").write_bytes(b"no image")  # the sixth: one of each class in turn
    data = open_samples(str(tmp_path), RGB, form)
    found = data.read(range(12), [0] * 12)
    assert len(data.skipped) == 1
    assert "2.png" in data.skipped[0]
    assert whole.labels is not None
    assert found.labels is not None
    places = [0, 1, 2, 3, 4, 6, 6, 7, 8, 9, 10, 11]
    assert torch.equal(found.inputs[0], whole.inputs[0][places])
    assert torch.equal(found.labels, whole.labels[places])


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    form = images(tmp_path, 1)
    assert not open_samples(str(tmp_path), RGB, form).labelled
    assert not open_samples(str(tmp_path / "class0"), RGB, form).labelled


LOADERS = """\
import torch
from torch.utils.data import DataLoader, TensorDataset
saved = torch.load("x.pt")
x, y = saved["inputs"], saved["labels"]
def batches():
    yield from zip(x.split(5), y.split(5))
singles = [(a, int(b)) for a, b in zip(x, y)]
dataset = TensorDataset(x, y)
loader = DataLoader(dataset, batch_size=7)
class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return len(x)
    def __getitem__(self, i):
        return x[i] + torch.rand(()), y[i].item()
noisy = Noisy()
def broken():
    yield x[:2], y[:2]
    raise RuntimeError("the disk is gone")
"""


def test_labels_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = case.images(20, 0)
    np.savez("x.npz", inputs=x.numpy(), labels=y.numpy().astype(np.uint8))
    save_file({"inputs": x, "labels": y}, "x.safetensors")
    torch.save({"inputs": x, "labels": y}, "x.pt")
    np.save("x.npy", x.numpy())
    Path("data.py").write_text(LOADERS)
    names = ["x.npz", "x.safetensors", "x.pt"]
    names += [f"data.py:{name}" for name in ("batches", "singles", "dataset", "loader")]
    for name in names:
        data = open_samples(name, case.SPECS, None)
        assert data.labelled, name
        batch = data.read([7, 0, 19], [0, 0, 0])
        assert torch.equal(batch.inputs[0], x[[7, 0, 19]]), name
        assert batch.labels is not None
        assert torch.equal(batch.labels, y[[7, 0, 19]]), name
    assert not open_samples("x.npy", case.SPECS, None).labelled
    with pytest.raises(OctifyError, match=r"data.py:broken failed to run\n  where: .*data.py:18\n"):
        open_samples("data.py:broken", case.SPECS, None)


def test_a_dataset_draws_from_the_seeds_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = case.images(20, 0)
    torch.save({"inputs": x, "labels": y}, "x.pt")
    Path("data.py").write_text(LOADERS)
    data = open_samples("data.py:noisy", case.SPECS, None)
    assert data.own_transforms
    whole = data.read([4, 2, 9], [1, 2, 3]).inputs[0]
    assert torch.equal(data.read([2, 9], [2, 3]).inputs[0], whole[1:])
    assert not torch.equal(data.read([2, 9], [2, 4]).inputs[0], whole[1:])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("cat.jpg", "not an input of the model"),
        (torch.zeros(3, 5, 12, 12), "has shape 3x5x12x12"),
        (torch.zeros(3, 2, 12, 12, dtype=torch.uint8), "is uint8"),
        ((torch.zeros(3, 2, 12, 12), torch.zeros(4, dtype=torch.int64)), "labels of item 0 .* have shape 4"),
        ((torch.zeros(3, 2, 12, 12), torch.zeros(3)), "labels of item 0 of the data are float32"),
        (torch.full((3, 2, 12, 12), float("nan")), "3 of its 3 inputs have NaN"),
    ],
)
def test_items_that_do_not_fit(item: object, message: str) -> None:
    with pytest.raises(OctifyError, match=message):
        hold([item], case.SPECS)


def test_items_that_do_not_fit_together() -> None:
    x, y = case.images(4, 0)
    with pytest.raises(OctifyError, match="different sizes"):
        hold([x, x[:, :, :10]], case.SPECS)
    with pytest.raises(OctifyError, match="some of the data has labels"):
        hold([(x, y), x], case.SPECS)
    with pytest.raises(OctifyError, match="there is no training data"):
        hold([], case.SPECS)


def test_labels_that_cannot_be_the_models(teacher: nn.Module, tmp_path: Path) -> None:
    x, y = case.images(32, 0)

    def attempt(given: Tensor, **more: Any) -> Tuned:
        data = hold([(x, given)], case.SPECS)
        options = Options(steps=1, **more)
        return tune(case.converted(teacher), teacher, data, options, checkpoint=tmp_path / "c.safetensors")

    with pytest.raises(OctifyError, match="out of range, such as 4"):
        attempt(torch.where(y == 3, 4, y))
    maps = torch.zeros(32, 12, 12, dtype=torch.int64)
    assert any("labels are not used" in warning for warning in attempt(maps).warnings)
    with pytest.raises(OctifyError, match="no labels to train with"):
        attempt(maps, labels="required")
    with pytest.raises(OctifyError, match=r"--distill-weight 0\.2 needs labels"):
        attempt(maps, distill_weight=0.2)
    with pytest.raises(OctifyError, match="too few"):
        hold_few = hold([x[:15]], case.SPECS)
        tune(teacher, teacher, hold_few, Options(steps=1), checkpoint=tmp_path / "c.safetensors")


def test_label_maps_of_a_segmenting_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 3, 1)
    )
    x = case.images(32, 0)[0].float()
    labels = (x[:, 0] > 0).long() + (x[:, 1] > 1).long()
    specs = [InputSpec((1, 2, 12, 12), "float32")]
    student = octify.convert(net, x[:1], rules="everywhere").model
    options = Options(steps=80, lr=1e-2, distill_weight=0)
    found = tune(
        student, net.eval(), hold([(x, labels)], specs), options, checkpoint=tmp_path / "c.safetensors"
    )
    assert found.after.accuracy is not None
    assert found.before.accuracy is not None
    assert found.after.accuracy > found.before.accuracy + 0.2
    assert found.before.agreement is None


def test_measurements_add_up(teacher: nn.Module) -> None:
    x, y = case.images(30, 5)
    student = case.converted(teacher)

    def measured(*sizes: int) -> Any:
        parts = [Batch((a,), b) for a, b in zip(x.split(list(sizes)), y.split(list(sizes)), strict=True)]
        return measure(student, teacher, parts, lambda v: v, torch.no_grad)

    whole, cut = measured(30), measured(1, 9, 20)
    assert cut.relative_error == pytest.approx(whole.relative_error, rel=1e-12)
    assert (cut.agreement, cut.accuracy) == (whole.agreement, whole.accuracy)
    assert whole.original_accuracy == float((teacher(x).argmax(1) == y).double().mean())


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": -1.0},
        {"held_out": 1.0},
        {"warmup": 9},
        {"distill_weight": 1.5},
        {"labels": "none", "distill_weight": 0.5},
    ],
)
def test_options_that_cannot_be_right(wrong: dict[str, Any]) -> None:
    with pytest.raises(OctifyError):
        Options(**({"steps": 8} | wrong)).check()
