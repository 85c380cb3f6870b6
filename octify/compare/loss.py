"""Losses of tuning, split into the shares of several processes.

Every function returns this process's share: the sum of the shares over all processes is the loss of the
joint batch, and so is the gradient's. ``total`` adds a tensor up over all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from octify.data.items import IGNORED
from octify.errors import OctifyError

Total = Callable[[Tensor], Tensor]


def output_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor], total: Total) -> Tensor:
    """``10 ||centred difference||^2 / ||centred target||^2``, the sum of it over the outputs.

    Logits (N, classes) are centred over the classes, as a softmax does not see their mean; the targets of
    other outputs over the batch, and their difference is not centred (``calibrate.distill.relative_loss``).
    """
    _require_same(outputs, targets)
    losses = []
    for a, b in zip(outputs, targets, strict=True):
        finite = torch.isfinite(b)  # a class that can never be chosen has nothing to be learned
        a, b = (torch.where(finite, t, torch.zeros_like(t)) for t in (a, b))
        difference = a - b
        if b.ndim == 2 and b.shape[1] > 1:
            count = finite.sum(1, keepdim=True).clamp_min(1)
            target = torch.where(finite, b - b.sum(1, keepdim=True) / count, 0.0)
            difference = torch.where(finite, difference - difference.sum(1, keepdim=True) / count, 0.0)
        else:
            target = b - total(b.sum(0)) / total(b.new_tensor(float(len(b))))
        losses.append(10 * difference.square().sum() / total(target.square().sum()).clamp_min(1e-12))
    return torch.stack(losses).sum()


def label_loss(logits: Tensor, labels: Tensor, total: Total) -> Tensor:
    """Cross entropy of logits (N, classes, ...) and labels (N, ...), mean over those that are not -100."""
    count = total((labels != IGNORED).sum().to(logits.dtype)).clamp_min(1)
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum") / count


def _require_same(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    a, b = ([tuple(t.shape) for t in tensors] for tensors in (outputs, targets))
    if a != b or not a:
        raise OctifyError(
            "the outputs of the converted model and of its original cannot be compared",
            why=f"their shapes are {a} and {b}",
            hint="tune the part that yields tensors of one shape as a model of its own",
        )


def relative_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """``10 ||centred difference||^2 / ||centred target||^2``; logits are centred over the classes."""
    total: Tensor | None = None
    for a, b in zip(outputs, targets, strict=True):
        finite = torch.isfinite(b)  # a class that can never be chosen has nothing to be learned
        if not bool(finite.all()):
            columns = finite.flatten(1).all(0) if b.ndim > 1 else finite
            kept = b.ndim == 2 and bool((finite == columns).all())
            a, b = (t[:, columns] if kept else torch.where(finite, t, torch.zeros_like(t)) for t in (a, b))
        logits = b.ndim == 2 and b.shape[1] > 1  # one number for each input is its own mean
        difference, target = a - b, _centred(b, 1 if logits else 0)
        if logits:
            difference = difference - difference.mean(1, keepdim=True)
        part = 10 * difference.square().sum() / target.square().sum().clamp_min(1e-12)
        total = part if total is None else total + part
    assert total is not None
    return total


def _centred(values: Tensor, dim: int) -> Tensor:
    """``values`` without their mean over ``dim``; a single value there is its own mean, and stays."""
    return values - values.mean(dim, keepdim=True) if values.shape[dim] > 1 else values
