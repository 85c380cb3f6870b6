"""The committed networks are as good as their checkpoints say, on tasks that are the same every time."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.benchmarks.accuracy import data, nets
from tests.benchmarks.accuracy.train import accuracy

SUBSET = 250
TRAINED = sorted(path.stem for path in nets.CHECKPOINTS.glob("*.safetensors"))


@functools.cache
def subset(task: str) -> data.Labelled:
    whole = data.split(task, "test")
    return data.Labelled(whole.images[:SUBSET], whole.labels[:SUBSET])


def test_checkpoints_are_as_accurate_as_they_say() -> None:
    for trained in TRAINED:
        net, task = trained.split("-")
        noted = float(nets.metadata(net, task)["test_accuracy"])
        deviation = (noted * (1 - noted) / SUBSET) ** 0.5
        assert noted > 0.85, trained
        assert abs(accuracy(nets.load(net, task), subset(task)) - noted) < 4 * deviation, trained
        assert nets.checkpoint(net, task).stat().st_size < 1_500_000, trained


@pytest.mark.parametrize("task", data.CLASSES)
def test_a_task_is_the_same_every_time(task: str) -> None:
    first, again = data.split(task, "choose"), data.split(task, "choose")
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    assert first.images.shape == (data.SIZES["choose"], 3, 32, 32)
    assert set(first.labels.tolist()) == set(range(data.CLASSES[task]))
    assert first.images.mean().abs() < 0.2 and 0.3 < first.images.std() < 1.2


def test_the_splits_share_no_digit() -> None:
    parts = [images for images, _ in data.sources().values()]
    assert sum(map(len, parts)) == 1797
    assert len(torch.cat(parts).flatten(1).unique(dim=0)) == 1797
