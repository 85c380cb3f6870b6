"""Index lists of the low-frequency channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from octify.errors import PlanError


def last_channels(channels: int, alpha: float) -> tuple[int, ...]:
    """The paper's choice: the last ``int(alpha * channels)`` channels (Chen et al. 2019, section 3.2)."""
    if not 0 <= alpha <= 1:
        raise PlanError(f"alpha is {alpha}", why="it is a share of channels", hint="use a number from 0 to 1")
    return tuple(range(channels - int(alpha * channels), channels))


def split_indices(channels: int, low: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(high, low) channel indices, each ascending."""
    chosen = set(low)
    if not chosen <= set(range(channels)):
        raise PlanError(
            f"low channels {sorted(chosen - set(range(channels)))} do not exist",
            why=f"the value has channels 0 to {channels - 1}",
        )
    return tuple(c for c in range(channels) if c not in chosen), tuple(sorted(chosen))


class Gather(nn.Module):
    """Selects channels: (N, C, ...) -> (N, len(indices), ...). Contiguous ones by a view.

    ``channels`` is C, by default as many as there are indices (an order of all channels).
    """

    def __init__(self, indices: Sequence[int], channels: int | None = None) -> None:
        super().__init__()
        self.indices = tuple(indices)
        self.channels = len(self.indices) if channels is None else channels
        first = self.indices[0] if self.indices else 0
        self.contiguous = self.indices == tuple(range(first, first + len(self.indices)))
        if not self.contiguous:
            self.register_buffer("index", torch.tensor(self.indices), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.contiguous:
            whole = len(self.indices) == x.shape[1]
            return x if whole else x.narrow(1, self.indices[0], len(self.indices))
        return x.index_select(1, self.get_buffer("index"))

    def extra_repr(self) -> str:
        return f"{len(self.indices)} channels, contiguous={self.contiguous}"
