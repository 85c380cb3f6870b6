"""Buffers are what they were, whatever a forward that is traced or measured does to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Afterwards the tensors that are ``module``'s buffers now hold the values that they hold now."""
    held = [(buffer, buffer.detach().clone()) for buffer in module.buffers() if not buffer.is_meta]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in held:
                _put_back(buffer, value)


def _put_back(buffer: Tensor, value: Tensor) -> None:
    if buffer.shape == value.shape and not torch.equal(buffer, value):
        buffer.copy_(value)
