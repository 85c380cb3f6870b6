"""Random shifts and flips, drawn for each image separately."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_REACH = 8  # largest shift as a fraction of the image size


@dataclass(frozen=True)
class Moves:
    """Source pixel of each position: rows (N, H) and columns (N, W) of N images."""

    rows: Tensor
    columns: Tensor

    @classmethod
    def drawn(
        cls, count: int, size: tuple[int, int], generator: torch.Generator, flipped: float = 0.5
    ) -> Moves:
        """Shifts by up to an eighth of the ``size`` (H, W), the border reflected; a share ``flipped`` left to
        right.
        """
        h, w = size
        dy, dx = (_shifts(n, count, generator) for n in size)
        flips = torch.rand(count, generator=generator) < flipped
        rows = _reflected(torch.arange(h) + dy[:, None], h)
        columns = _reflected(torch.arange(w) + dx[:, None], w)
        return cls(rows, torch.where(flips[:, None], columns.flip(1), columns))

    def of(self, part: slice) -> Moves:
        """Select the moves of some of the images."""
        return Moves(self.rows[part], self.columns[part])

    def apply(self, x: Tensor) -> Tensor:
        """Move ``x`` (N, ..., H, W)."""
        flat = x.reshape(len(x), math.prod(x.shape[1:-2]), *x.shape[-2:])
        n = torch.arange(len(x), device=x.device)[:, None, None, None]
        k = torch.arange(flat.shape[1], device=x.device)[:, None, None]
        rows, columns = self.rows.to(x.device), self.columns.to(x.device)
        return flat[n, k, rows[:, None, :, None], columns[:, None, None, :]].reshape(x.shape)


def _shifts(size: int, count: int, generator: torch.Generator) -> Tensor:
    reach = min(max(1, size // _REACH), size - 1)
    return torch.randint(-reach, reach + 1, (count,), generator=generator)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Mirror indices beyond an end at the outermost pixel."""
    index = index.abs()
    return (size - 1) - ((size - 1) - index).abs()
