"""What a step lowers: the distance to the original's outputs, the error against labels, or both."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from octify.calibrate.distill import relative_loss
from octify.calibrate.observe import tensors_of
from octify.errors import OctifyError


def objective(outputs: Any, wanted: Any, labels: Tensor | None, distill: float) -> Tensor:
    """``distill * relative_loss + (1 - distill) * cross entropy``, in float32.

    Parameters
    ----------
    outputs, wanted:
        What the converted model and the original give; tensors, or any nesting of them.
    labels:
        (N,), for an output (N, classes); None leaves the second term out.
    """
    given = [x.float() for x in tensors_of(outputs)]
    total = torch.zeros((), device=given[0].device)
    if distill > 0:
        total = total + distill * relative_loss(given, [x.float() for x in tensors_of(wanted)])
    if labels is not None and distill < 1:
        total = total + (1 - distill) * F.cross_entropy(given[0], labels)
    return total


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
