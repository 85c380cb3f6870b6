"""A small network and labelled data to tune it with; as a program, one of several processes that do.

RANK=0 WORLD_SIZE=2 ... python -m tests.tune.case OUT
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.trace.facts import InputSpec
from octify.tune.data import Samples, hold
from octify.tune.loop import tune
from octify.tune.options import Options
from octify.tune.run import Run

CLASSES = 4
SPECS = (InputSpec((1, 2, 12, 12), "float64"),)
OPTIONS = Options(steps=6, batch=7, held_out=0.25, lr=1e-3, distill_weight=0.3)  # 7: two unequal parts


class Net(nn.Module):
    """A residual block with BatchNorm and dropout, in float64: (N, 2, 12, 12) to (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.head(self.drop(x.mean((2, 3))))


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth noise with as many bright rows as the label says: (count, 2, 12, 12) and (count,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    x = F.interpolate(torch.randn(count, 2, 6, 6, generator=generator), size=12, mode="bilinear")
    bright = torch.arange(12)[None, :] < 3 * labels[:, None]
    return (x + 2 * bright[:, None, :, None]).double(), labels


def original() -> nn.Module:
    """The network, with norms settled and a head that was fitted a little."""
    return copy.deepcopy(_original())


@functools.cache
def _original() -> nn.Module:
    torch.manual_seed(0)
    model = Net().double().train()
    model.drop.eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = images(48, 1)
    for _ in range(20):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x), y))
        optimizer.step()
    return model.eval()


def converted(model: nn.Module) -> nn.Module:
    """``model`` at alpha .5, uncalibrated: worse than it."""
    dtype = next(model.parameters()).dtype
    return octify.convert(model, images(1, 0)[0].to(dtype), rules="everywhere").model


def samples(count: int = 64) -> Samples:
    """Labelled data in memory."""
    return hold([images(count, 2)], SPECS)


def gradients(options: Options) -> dict[str, Tensor]:
    """Of every parameter, at the first step's batch."""
    teacher = original()
    run = Run(converted(teacher), teacher, samples(), options, lambda warning: None)
    run.backward(0)
    return {name: p.grad.clone() for name, p in run.student.named_parameters() if p.grad is not None}


def weights(options: Options, checkpoint: Path, **more: Any) -> dict[str, Tensor]:
    """Of the student, after all steps."""
    teacher = original()
    student = converted(teacher)
    tune(student, teacher, samples(), options, checkpoint=checkpoint, **more)
    return student.state_dict()


if __name__ == "__main__":
    out = Path(sys.argv[1])
    found = {"gradients": gradients(OPTIONS), "weights": weights(OPTIONS, out / "checkpoint.safetensors")}
    torch.save(found, out / f"{os.environ['RANK']}.pt")
