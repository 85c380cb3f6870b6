"""Distance from the original and accuracy, accumulated batch by batch over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octify.compare.loss import Total
from octify.compare.outputs import tensors_of
from octify.tune.data import Batch
from octify.tune.parse import IGNORED


@dataclass(frozen=True)
class Measured:
    """
    relative_error:
        ``||converted - original|| / ||original - its mean over the inputs||`` of the outputs.
    agreement:
        Share of inputs with the original's argmax; None if the output is not (N, classes).
    accuracy, original_accuracy:
        Share of labels (of pixels, where labels are maps) that the two models get right; None without.
    """

    relative_error: float
    agreement: float | None
    accuracy: float | None
    original_accuracy: float | None


@torch.no_grad()
def measure(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Batch], total: Total, context: Callable[[], Any]
) -> Measured:
    """Measure both models in their current mode on the ``batches`` of this process, in ``context``."""
    sums: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        sums[name] = sums[name] + _wide(value) if name in sums else _wide(value)

    for batch in batches:
        with context():
            a, b = (tensors_of(model(*batch.inputs)) for model in (student, teacher))
        add("count", torch.tensor(float(len(batch.inputs[0])), device=b[0].device))
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            add("error", (_wide(x) - _wide(y)).square().sum())
            add("square", _wide(y).square().sum())
            add(f"sum {i}", _wide(y).sum(0))
        if len(b) == 1 and b[0].ndim == 2 and b[0].shape[1] > 1:
            add("same", (a[0].argmax(1) == b[0].argmax(1)).sum())
        if batch.labels is not None:
            add("labels", (batch.labels != IGNORED).sum())
            for name, output in (("right", a[0]), ("original right", b[0])):
                add(name, (output.argmax(1) == batch.labels).sum())
    sums = {name: total(value) for name, value in sums.items()}
    count = float(sums["count"])
    means = sum(float(s.square().sum()) / count for name, s in sums.items() if name.startswith("sum "))
    # The mean of a single input is the input itself: nothing is subtracted then.
    spread = float(sums["square"]) - (means if count > 1 else 0.0)
    return Measured(
        (float(sums["error"]) / max(spread, 1e-30)) ** 0.5,
        _share(sums, "same", count),
        _share(sums, "right", float(sums.get("labels", 0))),
        _share(sums, "original right", float(sums.get("labels", 0))),
    )


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.device.type == "mps" else value.double()


def _share(sums: dict[str, Tensor], name: str, of: float) -> float | None:
    return float(sums[name]) / of if name in sums and of else None
