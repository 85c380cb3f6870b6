"""Regions of autocast in a model's forward. A graph has none: it computes in the dtypes of its inputs."""

from __future__ import annotations

import functools
import inspect
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch

from octify.trace.asked import is_the_models
from octify.trace.parted import Line

_DECORATED = "decorate_autocast"  # torch's function that enters the region of a decorator
_SHOWN = 4


@contextmanager
def regions_noted(*, effective: bool = True) -> Iterator[list[Line]]:
    """Meanwhile note lines that enter a region of autocast; not ``effective``, the regions change nothing."""
    lines: list[Line] = []
    enter: Any = torch.autocast.__enter__

    @functools.wraps(enter)
    def entered(self: Any) -> Any:
        line = _line(sys._getframe(1))
        if line is not None and line not in lines:
            lines.append(line)
        result = enter(self)
        if not effective:
            torch.set_autocast_enabled(self.device, False)  # leaving puts back what was before
        return result

    with patch.object(torch.autocast, "__enter__", entered):
        yield lines


def sentence_on(lines: Sequence[Line]) -> str:
    """The sentence on regions at ``lines`` for the report."""
    shown = ", ".join(f"`{text}` ({where})" for text, where in lines[:_SHOWN])
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return (
        "the converted model has no regions of autocast of its own: in the precision of its input, or of the "
        f"autocast around its call, it also computes what the model computes in another: {shown}{more}"
    )


def _line(frame: FrameType | None) -> Line | None:
    while frame is not None and not is_the_models(frame):
        if frame.f_code.co_name == _DECORATED and inspect.isfunction(frame.f_locals.get("func")):
            code = frame.f_locals["func"].__code__
            return _of(code.co_filename, code.co_firstlineno)
        frame = frame.f_back if frame.f_code.co_name == "__enter__" else None
    return None if frame is None else _of(frame.f_code.co_filename, frame.f_lineno)


def _of(file: str, number: int) -> Line:
    return linecache.getline(file, number).strip() or "a line", f"{file}:{number}"
