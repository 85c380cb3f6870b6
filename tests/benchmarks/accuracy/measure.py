"""One row of the table: how good the network is that a method makes."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from octify.compare.outputs import compare
from tests.benchmarks.accuracy import data, nets
from tests.benchmarks.accuracy.methods import Case, make

_BATCH = 250


@dataclass(frozen=True)
class Row:
    """Shares in [0, 1], on ``tested`` images.

    drop:
        The original's accuracy less this one's. ``drop_error`` is its standard error: of the mean, over
        images, of the difference between the two networks' hits.
    seconds:
        CPU seconds to make the network.
    torch:
        The version of PyTorch that made it.
    """

    net: str
    task: str
    alpha: float
    method: str
    images: int
    seed: int
    split: str
    tested: int
    original: float
    accuracy: float
    accuracy_error: float
    drop: float
    drop_error: float
    agreement: float
    agreement_error: float
    relative_error: float
    macs_ratio: float
    seconds: float
    torch: str


def row(method: str, case: Case, split: str) -> Row:
    """Make the network and look at it on a split of the task (``"test"`` or ``"choose"``)."""
    made = make(method, case)
    truth, wanted = _original(case.net, case.task, split)
    given = logits(made.model, data.split(case.task, split).images)
    hits, before = (given.argmax(1) == truth).double(), (wanted.argmax(1) == truth).double()
    agreed = (given.argmax(1) == wanted.argmax(1)).double()
    return Row(
        case.net,
        case.task,
        case.alpha,
        method,
        case.images,
        case.seed,
        split,
        len(truth),
        float(before.mean()),
        float(hits.mean()),
        standard_error(hits),
        float((before - hits).mean()),
        standard_error(before - hits),
        float(agreed.mean()),
        standard_error(agreed),
        compare([wanted], [given], held_out=True).relative_error,
        made.macs_ratio,
        made.seconds,
        torch.__version__,
    )


def standard_error(values: Tensor) -> float:
    """Of the mean of ``values`` (n,)."""
    return float(values.std(correction=1)) / math.sqrt(len(values))


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(_BATCH)])


@functools.cache
def _original(net: str, task: str, split: str) -> tuple[Tensor, Tensor]:
    """The labels of a split and the original network's logits."""
    images, labels = data.split(task, split)
    return labels, logits(nets.load(net, task), images)
