"""Operations across the slices of a branch: its channels are ``slices`` times the same ones.

Of a stack of maps the low channels of every slice are the same, so a branch (N, slices * c, *size)
is a stack of its own. At every position an operation across slices sees values that are all
constant on the same blocks: it commutes with ``U``, whatever it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octify.nn.reduction import Reduction, over_channels


def slices_reduced(x: Tensor, slices: int, kind: Reduction, correction: float = 1.0) -> Tensor:
    """The reduction across slices: (N, slices * c, *size) -> (N, c, *size)."""
    return over_channels(torch.unflatten(x, 1, (slices, -1)), kind, correction).squeeze(1)


def slices_softmax(x: Tensor, slices: int) -> Tensor:
    """Softmax across slices; the shape (N, slices * c, *size) is kept."""
    return torch.unflatten(x, 1, (slices, -1)).softmax(1).flatten(1, 2)
