"""One item of the training data as rows: inputs with a batch dimension, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octify.errors import OctifyError
from octify.trace.facts import InputSpec

IGNORED = -100  # a label that does not count, as in torch's cross entropy


@dataclass(frozen=True)
class Row:
    """One or several rows: inputs (N, ...), labels (N,) or (N, H, W) int64."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs[0])


def parse_item(item: Any, specs: Sequence[InputSpec], number: int) -> Row:
    """``item``, the ``number``-th of the data: a batch or a single input, a tuple of inputs, with or
    without a label behind them.

    Raises OctifyError when it is not what the model takes.
    """
    parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
    parts = tuple(torch.from_numpy(p) if isinstance(p, np.ndarray) else p for p in parts)
    where = f"item {number} of the data"
    tensors = [p for p in parts[: len(specs)] if isinstance(p, Tensor)]
    if len(tensors) < len(specs):
        raise OctifyError(
            f"{where} is not an input of the model",
            why=f"it is a {type(item).__name__}; the model takes {len(specs)} tensor(s)",
            hint="yield tensors, or tuples of the model's inputs and a label",
        )
    inputs = tuple(_input(t, spec, where) for t, spec in zip(tensors, specs, strict=True))
    if len({len(x) for x in inputs}) > 1:
        raise OctifyError(
            f"{where} has inputs of different batch sizes", why=f"they are {[len(x) for x in inputs]}"
        )
    single = tensors[0].ndim < len(specs[0].shape)
    return Row(inputs, _labels(parts[len(specs) :], len(inputs[0]), single, where))


def _input(tensor: Tensor, spec: InputSpec, where: str) -> Tensor:
    x = tensor[None] if tensor.ndim == len(spec.shape) - 1 else tensor
    if x.ndim != len(spec.shape) or x.shape[1:2] != spec.shape[1:2] or not x.numel():
        raise OctifyError(
            f"{where} has shape {'x'.join(map(str, tensor.shape))}",
            why=f"the model takes {'x'.join(map(str, spec.shape))}",
            hint="give inputs with the model's number of channels",
        )
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point and not x.is_floating_point():
        raise OctifyError(
            f"{where} is {str(x.dtype).removeprefix('torch.')}",
            why="the model takes floating point inputs, normalised as in training",
            hint="convert and normalise them",
        )
    return x.detach().cpu().to(dtype) if dtype.is_floating_point else x.detach().cpu()


def _labels(rest: Sequence[Any], count: int, single: bool, where: str) -> Tensor | None:
    """Labels behind the inputs; None where there is nothing of that kind."""
    if not rest or not isinstance(rest[0], (int, np.integer, Tensor)):
        return None
    labels = torch.as_tensor(rest[0]).detach().cpu()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise OctifyError(
            f"the labels of {where} are {str(labels.dtype).removeprefix('torch.')}",
            why="labels are class numbers, whole numbers from 0",
            hint="convert them, or yield inputs alone to distil without labels",
        )
    labels = labels[None] if single else labels
    if labels.ndim not in (1, 3) or len(labels) != count:
        raise OctifyError(
            f"the labels of {where} have shape {'x'.join(map(str, labels.shape)) or 'of one number'}",
            why=f"there are {count} inputs; labels are one number, or one map of numbers, for each",
        )
    return labels.long()


def require_finite(inputs: Sequence[Tensor], where: str) -> None:
    """OctifyError when an input holds NaN or infinite values."""
    for x in inputs:
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            bad = (~torch.isfinite(x)).flatten(1).any(1)
            raise OctifyError(
                f"{where} holds values that are not finite",
                why=f"{int(bad.sum())} of its {len(x)} inputs have NaN or infinity, the first is number"
                f" {int(bad.nonzero()[0])}",
                hint="remove or repair them",
            )


def require_range(labels: Tensor, classes: int) -> None:
    """OctifyError when a label is neither a class of the model nor -100, which does not count."""
    wrong = ((labels < 0) | (labels >= classes)) & (labels != IGNORED)
    if bool(wrong.any()):
        raise OctifyError(
            f"{int(wrong.sum())} label(s) are out of range, such as {int(labels[wrong][0])}",
            why=f"the model has {classes} outputs: labels are 0 to {classes - 1}, or {IGNORED} for what does"
            " not count",
            hint="number the classes as the model does, or --labels none",
        )
