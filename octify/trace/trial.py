"""One run of a module for a comparison: its inputs are drawn, its random numbers are the same each time."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_SEED = 20260  # any that no user is likely to set
_STEP = 32  # at most: sizes that networks halve five times stay such sizes


@dataclass(frozen=True)
class Trial:
    """Result of a run, or the exception that ended it.

    drew:
        Whether random numbers of Python's or NumPy's were drawn: code may go another way by them.
    """

    result: Any
    error: Exception | None = None
    drew: bool = False


def run(module: nn.Module, inputs: Sequence[Tensor], *, grad: bool = False, seed: int = 0) -> Trial:
    """``module(*inputs)`` on copies of ``inputs``, with all random generators seeded and put back."""
    own = [x.clone() for x in inputs]
    with warnings.catch_warnings(), seeded(_devices(inputs), seed), torch.set_grad_enabled(grad):
        warnings.simplefilter("ignore")  # those of the model's own code are told when it is really used
        before = _drawn_so_far()
        try:
            result = module(*own)
        except Exception as error:
            return Trial(None, error)
        return Trial(result, drew=_drawn_so_far() != before)


def _drawn_so_far() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2:]


def _devices(inputs: Sequence[Tensor]) -> list[int]:
    return sorted({x.get_device() for x in inputs if x.is_cuda and x.get_device() >= 0})


@contextmanager
def seeded(devices: Sequence[int] = (), seed: int = 0) -> Iterator[None]:
    """Meanwhile torch's, Python's and NumPy's random numbers are those of one seed."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(_SEED + seed)
        random.seed(_SEED + seed)
        np.random.seed(_SEED + seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def drawn(examples: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Random tensors like ``examples``: normal numbers, and integers from the examples' own range."""
    generator = torch.Generator().manual_seed(_SEED)
    return [_like(x, generator).to(device) for x in examples]


def _like(x: Tensor, generator: torch.Generator) -> Tensor:
    if x.dtype.is_floating_point or x.dtype.is_complex:
        return torch.randn(
            x.shape, generator=generator, dtype=torch.promote_types(x.dtype, torch.float32)
        ).to(x.dtype)
    if x.dtype is torch.bool:
        return torch.rand(x.shape, generator=generator) < 0.5
    if x.numel() == 0:
        return x.clone()
    low, high = int(x.min()), int(x.max())
    return torch.randint(min(low, 0), max(high, 1) + 1, x.shape, generator=generator).to(x.dtype)


def of_batch(examples: Sequence[Tensor]) -> list[Tensor]:
    """``examples`` with another first dimension: one sample more, or three of many."""
    first = {x.shape[0] for x in examples if x.ndim}
    if len(first) != 1 or 0 in first:
        return []
    (batch,) = first
    other = batch + 1 if batch < 4 else 3
    return [_repeated(x, 0, other) for x in examples]


def of_size(examples: Sequence[Tensor]) -> list[Tensor]:
    """``examples`` at another even size, of another shape; empty where none has a size."""
    if not any(x.ndim > 2 for x in examples):
        return []
    inputs = []
    for x in examples:
        for dim in range(2, x.ndim):
            x = _repeated(x, dim, _other(x.shape[dim], dim - 1))
        inputs.append(x)
    return inputs


def _other(size: int, steps: int) -> int:
    """An even size ``steps`` steps away from ``size`` (or the even one below), smaller where that is large.

    Small maps are doubled, trebled and so on: a volume of 8x8x8 would else grow to a thousand times its size.
    """
    even = max(2, size - size % 2)
    step = steps * min(_STEP, even)
    return even - step if even >= 3 * step else even + step


def _repeated(x: Tensor, dim: int, size: int) -> Tensor:
    """``x`` with ``size`` entries in ``dim``: its own, over again."""
    index = torch.arange(size, device=x.device) % max(1, x.shape[dim])
    return x.index_select(dim, index)
