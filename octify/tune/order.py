"""Which examples a step sees, and how they are altered: a function of the seed and the step alone.

So a run that was stopped goes on with the same batches, and several processes share one batch.
"""

from __future__ import annotations

import torch


def split(count: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on, and at least one kept aside."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    aside = max(1, round(held_out * count))
    return sorted(order[aside:]), sorted(order[:aside])


class Order:
    """The batches of a run: one permutation of ``indices`` after another, none left out or cut short."""

    def __init__(self, indices: list[int], batch: int, seed: int) -> None:
        self._indices, self._batch, self._seed = indices, batch, seed
        self._epoch, self._order = -1, indices

    def batch(self, step: int) -> list[int]:
        """The examples of ``step``, counted from 0."""
        first = step * self._batch
        return [self._at(first + i) for i in range(self._batch)]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self._indices))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            order = torch.randperm(len(self._indices), generator=generator).tolist()
            self._epoch, self._order = epoch, [self._indices[i] for i in order]
        return self._order[place]


def of_step(seed: int, step: int) -> torch.Generator:
    """The generator of what is random in ``step``."""
    return torch.Generator().manual_seed(seed * 1_000_003 + 500_009 + step)
