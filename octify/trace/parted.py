"""Values that are one tensor in eval mode and two in training, where a line changes one of them in place.

Dropout returns its input itself in eval mode, and a new tensor in training. A graph knows the former alone.
No list of such calls is needed: a call that returns its operand is seen, and so is a change of one.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from octify.compat import storage_key
from octify.trace.asked import is_of_octify, is_the_models
from octify.trace.duplicate import duplicate
from octify.trace.trial import run

Line = tuple[str, str]  # its text, and ``file:line``


def changed_in_eval_alone(model: nn.Module, inputs: Sequence[Tensor]) -> list[Line]:
    """Lines that change in place what a call has returned unchanged: in eval mode, and not in training."""
    evaluating, training = (_changes(model, inputs, training=mode) for mode in (False, True))
    return list(dict.fromkeys(line for line, call in evaluating if (line, call) not in training))


def _changes(model: nn.Module, inputs: Sequence[Tensor], *, training: bool) -> list[tuple[Line, str]]:
    own: nn.Module = duplicate(model).train(training)
    watch = _InPlaceWatch(own)
    handle = register_module_forward_hook(watch.called)
    try:
        with watch:
            run(own, inputs)
    finally:
        handle.remove()
    return watch.changes


class _InPlaceWatch(TorchFunctionMode):
    """Notes each line that changes a tensor which a call has returned as it got it, with the call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.changes: list[tuple[Line, str]] = []
        self._paths = {module: path for path, module in model.named_modules()}
        self._calls: dict[int, set[str]] = {}  # that returned a tensor as they got it, by its memory
        self._alive: list[Tensor] = []  # memory that is used again would be another value's

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        versions = [_version(x) for x in operands]
        result = func(*args, **kwargs)
        for operand, version in zip(operands, versions, strict=True):
            if _version(operand) != version:
                self._changed(operand)
            elif result is operand:
                self._returned(operand, f"{getattr(func, '__name__', '')} {_line()}")
        return result

    def called(self, module: nn.Module, args: Any, result: Any) -> None:
        """Hook of every module: notes one that returns its input."""
        if isinstance(result, Tensor) and any(x is result for x in args):
            self._returned(result, self._paths.get(module, ""))

    def _returned(self, x: Tensor, call: str) -> None:
        place = _place(x)
        if place is not None:
            self._calls.setdefault(place, set()).add(call)
            self._alive.append(x)

    def _changed(self, x: Tensor) -> None:
        calls = self._calls.get(_place(x) or 0, set())
        line = _line() if calls else None
        if line is not None:
            self.changes.extend((line, call) for call in sorted(calls))


def _version(x: Tensor) -> int:
    """Count of the changes of ``x`` so far; 0 for a tensor that counts none."""
    return 0 if x.is_inference() else int(getattr(x, "_version", 0))


def _place(x: Tensor) -> int | None:
    """Key of the memory of ``x``; None for a tensor without one (sparse, say)."""
    return storage_key(x) if x.layout is torch.strided else None


def _line() -> Line | None:
    """The innermost line of the model's code that runs now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    while frame is not None and not is_of_octify(frame):
        if is_the_models(frame):
            file, number = frame.f_code.co_filename, frame.f_lineno
            return linecache.getline(file, number).strip() or "a line", f"{file}:{number}"
        frame = frame.f_back
    return None
