"""Buffers and parameters are what they were, whatever a forward that is traced or measured does to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from octify.compat import FakeTensor


@contextmanager
def state_kept(module: nn.Module) -> Iterator[None]:
    """Afterwards the tensors that are ``module``'s buffers now hold the values that they hold now.

    Parameters hold the memory that they hold now: on fake tensors ``self.weight.data *= self.mask`` would
    leave them without any.
    """
    held = [(buffer, buffer.detach().clone()) for buffer in module.buffers() if _has_values(buffer)]
    data = [(parameter, parameter.data) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, own in data:
            if _is_other(parameter.data, own):
                parameter.data = own
        with torch.no_grad():
            for buffer, value in held:
                _put_back(buffer, value)


def _has_values(buffer: Tensor) -> bool:
    return not buffer.is_meta and not isinstance(buffer, FakeTensor)


def _is_other(data: Tensor, own: Tensor) -> bool:
    if data.device != own.device or isinstance(data, FakeTensor) is not isinstance(own, FakeTensor):
        return True
    return data.layout is torch.strided and _has_values(data) and data.data_ptr() != own.data_ptr()


def _put_back(buffer: Tensor, value: Tensor) -> None:
    if buffer.shape == value.shape and not torch.equal(buffer, value):
        buffer.copy_(value)
