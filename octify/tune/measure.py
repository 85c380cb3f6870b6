"""How good the tuned model is, on examples kept aside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octify.calibrate.compare import compare
from octify.calibrate.observe import tensors_of
from octify.tune.examples import Examples

Say = Callable[[int, int], None]


@torch.no_grad()
def answers(
    model: nn.Module, examples: Examples, indices: Sequence[int], batch: int, device: torch.device
) -> list[Tensor]:
    """Every floating point output of ``model`` (in eval mode) for the examples, on the CPU."""
    training = model.training
    model.eval()
    found = []
    for start in range(0, len(indices), batch):
        inputs = examples.batch(indices[start : start + batch])
        found.append([t.float().cpu() for t in tensors_of(model(*(x.to(device) for x in inputs)))])
    model.train(training)
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def figures(wanted: Sequence[Tensor], given: Sequence[Tensor], labels: Tensor | None) -> dict[str, Any]:
    """Relative output error and agreement with the original, and accuracy where there are labels."""
    told = compare(wanted, given, held_out=True).to_dict()
    if labels is not None:
        told["accuracy"] = _accuracy(given, labels)
        told["accuracy_original"] = _accuracy(wanted, labels)
    return told


def _accuracy(outputs: Sequence[Tensor], labels: Tensor) -> float:
    return float((outputs[0].argmax(1) == labels).double().mean())
