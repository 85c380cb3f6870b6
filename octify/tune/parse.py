"""Parsing of training items into rows (``octify.data.items`` defines an item), and checks of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from octify.data import items
from octify.data.items import IGNORED
from octify.data.items import Item as Row
from octify.errors import OctifyError
from octify.trace.facts import InputSpec

__all__ = ["IGNORED", "Row", "parse_item", "require_finite", "require_range"]


def parse_item(item: Any, specs: Sequence[InputSpec], number: int) -> Row:
    """Parse ``item``, the ``number``-th of the data. Raises OctifyError if the model does not take it."""
    return items.parse_item(item, specs, f"item {number} of the data")


def require_finite(inputs: Sequence[Tensor], where: str) -> None:
    """Raise OctifyError when an input holds NaN, infinities, or values too large to be squared and summed."""
    for x in inputs:
        if not items.usable(x):
            bad = ~(torch.isfinite(x) & (x.abs() <= items.LARGEST)).flatten(1).all(1)
            raise OctifyError(
                f"{where} holds values that are not finite, or too large to compute with",
                why=f"{int(bad.sum())} of its {len(x)} inputs have NaN, infinity or more than"
                f" {items.LARGEST:g}, the first is number {int(bad.nonzero()[0])}",
                hint="remove or repair them",
            )


def require_range(labels: Tensor, classes: int) -> None:
    """Raise OctifyError when a label is neither a class of the model nor -100, which is ignored."""
    wrong = ((labels < 0) | (labels >= classes)) & (labels != IGNORED)
    if bool(wrong.any()):
        raise OctifyError(
            f"{int(wrong.sum())} label(s) are out of range, such as {int(labels[wrong][0])}",
            why=f"the model has {classes} outputs: labels are 0 to {classes - 1}, or {IGNORED} for what does"
            " not count",
            hint="number the classes as the model does, or --labels none",
        )
