"""Random shifts and flips of images, together with their label maps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from octify.data.moves import Moves
from octify.tune.data import Batch

Augment = Literal["none", "shift", "flip"]


def augmented(batch: Batch, kind: Augment, seed: int, part: slice, size: int) -> Batch:
    """Augment ``batch``, which is the rows ``part`` of a batch of ``size`` rows.

    Parameters
    ----------
    kind:
        ``"shift"``: each image by up to an eighth of its size, its border reflected. ``"flip"``: also half
        of them left to right.
    seed:
        Seed of the moves of the whole batch: they do not depend on how it is split into parts.

    Tensors without two spatial dimensions, or of another size than the first input, are left as they are.
    """
    first = batch.inputs[0]
    if kind == "none" or first.ndim != 4:
        return batch
    generator = torch.Generator().manual_seed(seed)
    h, w = first.shape[-2:]
    moves = Moves.drawn(size, (h, w), generator, 0.5 if kind == "flip" else 0.0).of(part)

    def moved(x: Tensor) -> Tensor:
        if x.ndim not in (3, 4) or x.shape[-2:] != (h, w):
            return x
        return moves.apply(x)

    labels = batch.labels
    maps = labels is not None and labels.ndim == 3
    return Batch(
        tuple(moved(x) for x in batch.inputs), moved(labels) if labels is not None and maps else labels
    )
