"""The loop: stopping and going on changes nothing, and several processes are one with a larger batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.errors import OctifyError
from octify.tune import checkpoint
from octify.tune.examples import Examples
from octify.tune.loop import tune
from octify.tune.loss import objective
from octify.tune.order import Order, split
from octify.tune.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(steps=6, batch=8, rate=1e-2, held_out=0.2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return Net().eval(), Net().eval()


def examples(labelled: bool = True, count: int = 40) -> Examples:
    """Labels say which of the first two channels are bright."""
    generator = torch.Generator().manual_seed(1)
    bright = torch.randint(0, 2, (count, 2), generator=generator)
    x = torch.randn(count, 3, 8, 8, generator=generator)
    x[:, :2] += 2 * bright[..., None, None] - 1
    labels = bright[:, 0] + 2 * bright[:, 1] if labelled else None
    return Examples(count, lambda i: (x[i],), labels)


def tuned(settings: Settings, labelled: bool = True, **options: Any) -> tuple[dict[str, Tensor], Any]:
    student, teacher = nets()
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    result = tune(student, teacher, examples(labelled), settings, **options)
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())
    return student.state_dict(), result


@pytest.mark.parametrize("distill", [1.0, 0.5, 0.0])
def test_the_loss_falls_on_examples_kept_aside(distill: float) -> None:
    settings = replace(SETTINGS, steps=60, distill=distill, augment=False)
    _, result = tuned(settings)
    if distill:
        assert result.after["relative_error"] < 0.7 * result.before["relative_error"]
    if distill < 1:
        assert result.after["accuracy"] > result.before["accuracy"]


def test_frozen_norms_keep_their_statistics_and_others_do_not() -> None:
    frozen, _ = tuned(SETTINGS)
    moving, _ = tuned(replace(SETTINGS, norms="train"))
    start = nets()[0].state_dict()
    assert torch.equal(frozen["norm.running_mean"], start["norm.running_mean"])
    assert not torch.equal(moving["norm.running_mean"], start["norm.running_mean"])


class Stop(Exception):  # noqa: N818 - it stands for a signal
    pass


@pytest.mark.parametrize("stop_after", [1, 2, 4, 5])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    stop_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, uninterrupted = tuned(SETTINGS, labelled=True)
    real, seen = checkpoint.write, []

    def write(folder: Path, progress: checkpoint.Progress, *rest: Any) -> None:
        real(folder, progress, *rest)
        seen.append(progress.step)
        if progress.step >= stop_after:
            raise Stop

    monkeypatch.setattr(checkpoint, "write", write)
    with pytest.raises(Stop):
        tuned(SETTINGS, store=tmp_path / "c", every=1)
    monkeypatch.undo()
    torch.manual_seed(99)  # what a new process starts with does not matter
    resumed, result = tuned(SETTINGS, store=tmp_path / "c", every=1, resume=True)
    assert seen == list(range(1, stop_after + 1))
    assert all(torch.equal(t, resumed[name]) for name, t in whole.items())
    assert (result.before, result.after) == (uninterrupted.before, uninterrupted.after)


@pytest.mark.parametrize("other", [{"seed": 1}, {"rate": 2e-2}, {"steps": 7}, {"batch": 4}])
def test_a_checkpoint_of_another_run_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    tuned(SETTINGS, store=tmp_path / "c", every=2)
    with pytest.raises(OctifyError, match="is of another run"):
        tuned(replace(SETTINGS, **other), store=tmp_path / "c", every=2, resume=True)


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    tuned(SETTINGS, store=tmp_path / "c", every=2)
    (tmp_path / "c/model.safetensors").write_bytes(b"half")
    with pytest.raises(OctifyError, match="cannot be read"):
        tuned(SETTINGS, store=tmp_path / "c", every=2, resume=True)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(OctifyError, match=r"the loss is .* at step"):
        tuned(replace(SETTINGS, rate=1e30, steps=20))


@pytest.mark.parametrize(("labels", "told"), [([0, 4], "go from 0 to 4"), ([-1, 3], "go from -1 to 3")])
def test_labels_that_are_no_classes(labels: list[int], told: str) -> None:
    student, teacher = nets()
    base = examples()
    wrong = replace(base, labels=torch.tensor(labels * 20))
    with pytest.raises(OctifyError, match=told):
        tune(student, teacher, wrong, SETTINGS)


@given(count=st.integers(3, 60), batch=st.integers(1, 20), seed=st.integers(0, 99))
def test_every_epoch_sees_every_example_once(count: int, batch: int, seed: int) -> None:
    train, aside = split(count, 0.2, seed)
    assert sorted(train + aside) == list(range(count)) and aside
    order = Order(train, batch, seed)
    steps = -(-3 * len(train) // batch)
    seen = [i for step in range(steps) for i in order.batch(step)]
    for epoch in range(3):
        assert sorted(seen[epoch * len(train) : (epoch + 1) * len(train)]) == train
    # A batch depends on nothing that was asked before.
    assert Order(train, batch, seed).batch(steps - 1) == order.batch(steps - 1)


@given(
    parts=st.integers(1, 4),
    each=st.integers(1, 3),
    classes=st.integers(2, 5),
    distill=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 999),
)
def test_the_mean_of_the_parts_losses_is_the_loss_of_the_whole(
    parts: int, each: int, classes: int, distill: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (parts * each, classes)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(2))
    labels = torch.randint(0, classes, shape[:1], generator=generator)
    whole = objective(a, b, labels, distill)
    centred = b - b.mean(1, keepdim=True)

    def total(x: Tensor) -> Tensor:
        return centred.square().sum()

    pieces = [
        objective(a[i::parts], b[i::parts], labels[i::parts], distill, total, parts) for i in range(parts)
    ]
    torch.testing.assert_close(torch.stack(pieces).mean(), whole, rtol=1e-5, atol=1e-6)


TWO = """
import sys, json, torch
from dataclasses import replace
sys.path.insert(0, {root!r})
from safetensors.torch import save_file
from accelerate import Accelerator
from tests.tune.test_loop import SETTINGS, nets, examples
from octify.tune.loop import tune

accelerator = Accelerator(cpu=True)
student, teacher = nets()
student.drop.p = 0.0  # its masks differ from process to process
result = tune(student, teacher, examples(), replace(SETTINGS, distill=0.5), accelerator=accelerator)
save_file(dict(student.state_dict()), sys.argv[1] + f"/{{accelerator.process_index}}.safetensors")
print(json.dumps(result.processes))
accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_are_one_with_the_same_batch(tmp_path: Path) -> None:
    """Gradients averaged over two halves of a batch are those of the batch, up to rounding."""
    script = tmp_path / "two.py"
    script.write_text(TWO.format(root=str(ROOT)), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(script), str(tmp_path)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[0]) == 2
    from safetensors.torch import load_file

    first, second = (load_file(tmp_path / f"{i}.safetensors") for i in range(2))
    assert all(torch.equal(t, second[name]) for name, t in first.items())
    student, teacher = nets()
    student.drop.p = 0.0  # type: ignore[union-attr, assignment]
    tune(student, teacher, examples(), replace(SETTINGS, distill=0.5))
    start = nets()[0].state_dict()
    for name, t in student.state_dict().items():
        moved = (t.double() - start[name].double()).abs().max()
        # Adam divides by the gradient's size: a rounding error of it changes a step by 1e-3 of one.
        assert (t.double() - first[name].double()).abs().max() <= 1e-3 * moved + 1e-12, name
