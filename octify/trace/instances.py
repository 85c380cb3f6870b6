"""``isinstance`` of a proxy, answered as it would be of the proxy's value: to Python code alone.

Compiled code asks as well (``autograd.Function.apply``, scripted functions, extensions), and then reads the
memory of what it takes for a tensor: a proxy that passed for one would end the process. So the class of a
proxy is its own, whoever asks for it but Python, and Python's ``isinstance`` is another function meanwhile.
"""

from __future__ import annotations

import builtins
import dis
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx

_isinstance = builtins.isinstance
# Files of PyTorch's whose code gives what it takes for tensors to compiled code.
_TO_COMPILED_CODE = frozenset(
    str(Path(torch.__file__).parent / file)
    for file in ("utils/checkpoint.py", "autograd/function.py", "_functorch/utils.py")
)


@contextmanager
def instances_answered() -> Iterator[None]:
    """Meanwhile ``isinstance(x, Tensor)`` is true of a proxy that stands for a tensor."""
    with patch.object(builtins, "isinstance", _answer):
        yield


@functools.wraps(_isinstance)
def _answer(value: Any, kinds: Any, /) -> bool:
    if _isinstance(value, kinds):
        return True
    if not issubclass(type(value), fx.Proxy):
        return False
    look = getattr(type(value), "python_value", None)
    if look is None or sys._getframe(1).f_code.co_filename in _TO_COMPILED_CODE:
        return False
    return _isinstance(look(value), kinds)


def read_by_python() -> bool:
    """Return whether the property that calls this is read by Python code, as an attribute."""
    frame = sys._getframe(2)
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("LOAD_")


@functools.lru_cache(maxsize=64)
def instance_of(dtype: torch.dtype) -> Tensor:
    """A real tensor of ``dtype``, of which there is nothing to know but its class."""
    return torch.empty(0, dtype=dtype)
