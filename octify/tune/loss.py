"""What a step lowers: the distance to the original's outputs, the error against labels, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from octify.calibrate.observe import tensors_of
from octify.errors import OctifyError


def objective(
    outputs: Any,
    wanted: Any,
    labels: Tensor | None,
    distill: float,
    total: Callable[[Tensor], Tensor] = lambda x: x,
    parts: int = 1,
) -> Tensor:
    """``distill * distance + (1 - distill) * cross entropy``, in float32.

    Parameters
    ----------
    outputs, wanted:
        What the converted model and the original give; tensors, or any nesting of them.
    labels:
        (N,), for an output (N, classes); None leaves the second term out.
    total, parts:
        Where a batch is shared by several processes: the sum of a number over them, and how many they
        are. The mean of the parts' losses is then the loss of the whole batch, and so are gradients.
    """
    given = [x.float() for x in tensors_of(outputs)]
    result = torch.zeros((), device=given[0].device)
    if distill > 0:
        result = result + distill * _distance(given, [x.float() for x in tensors_of(wanted)], total, parts)
    if labels is not None and distill < 1:
        result = result + (1 - distill) * F.cross_entropy(given[0], labels)
    return result


def _distance(
    given: Sequence[Tensor], wanted: Sequence[Tensor], total: Callable[[Tensor], Tensor], parts: int
) -> Tensor:
    """``10 ||difference||^2 / ||target||^2`` summed over the outputs; logits (N, classes) are centred."""
    result = torch.zeros((), device=given[0].device)
    for a, b in zip(given, wanted, strict=True):
        difference, target = a - b, b
        if b.ndim == 2 and b.shape[1] > 1:
            difference = difference - difference.mean(1, keepdim=True)
            target = b - b.mean(1, keepdim=True)
        whole = total(target.square().sum().detach()).clamp_min(1e-12)
        result = result + 10 * parts * difference.square().sum() / whole
    return result


def check_labels(labels: Tensor | None, outputs: Any) -> None:
    """OctifyError unless ``outputs`` are (N, classes) and the labels are among the classes."""
    if labels is None:
        return
    given = tensors_of(outputs)
    if given[0].ndim != 2:
        raise OctifyError(
            "labels need a model that classifies",
            why=f"its output is {tuple(given[0].shape)}",
            hint="--labels none tunes towards the original's outputs",
        )
    classes, most, least = given[0].shape[1], int(labels.max()), int(labels.min())
    if least < 0 or most >= classes:
        raise OctifyError(
            f"the labels go from {least} to {most}",
            why=f"the model has the classes 0 to {classes - 1}",
            hint="number them as in training, or --labels none",
        )
