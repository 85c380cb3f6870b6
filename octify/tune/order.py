"""Order of the data: a function of seed and step, so that a resumed run continues the same sequence."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from octify.errors import OctifyError

LEAST = 16  # smallest number of inputs to train on
HELD_OUT_MOST = 2000


@dataclass(frozen=True)
class Split:
    """Indices of the training inputs and of the held-out ones, both ascending."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def split(count: int, share: float, seed: int) -> Split:
    """Hold out a random ``share`` of ``count`` inputs, at most 2000. Raises OctifyError below 16 inputs."""
    if count < LEAST:
        raise OctifyError(
            f"{count} input(s) are too few to tune with",
            why=f"at least {LEAST} are needed, some of them to measure on",
            hint="hundreds are better; convert --calib works with fewer",
        )
    kept = min(HELD_OUT_MOST, max(1, round(share * count))) if share else 0
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(derived(seed, "split"))).tolist()
    return Split(tuple(sorted(drawn[kept:])), tuple(sorted(drawn[:kept])))


def picked(rows: Sequence[int], batch: int, step: int, seed: int) -> list[int]:
    """Select the ``batch`` rows of ``step`` from an endless sequence of random permutations of all rows."""
    pieces = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, len(rows))
        pieces.append(rows[_permutation(len(rows), derived(seed, "epoch", epoch))[place]])
    return pieces


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def derived(*parts: object) -> int:
    """Derive a seed of 32 bits from words and numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def share_of(count: int, process: int, processes: int) -> slice:
    """Part of ``count`` rows for one of several processes; sizes differ by at most one."""
    return slice(count * process // processes, count * (process + 1) // processes)
