"""One run of a model that notes how its modules are called: the example inputs of its parts.

Fake tensors come first, so that nothing is computed; where control flow asks for values, the model runs
for real. A run that fails half-way still tells of all calls before that.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from octify.compat import FakeTensorMode
from octify.trace.arguments import Arguments, NotPlainError
from octify.trace.asked import FOREIGN
from octify.trace.duplicate import duplicate
from octify.trace.tracer import first_line, user_line
from octify.trace.unlogged import unlogged


@dataclass(frozen=True)
class Call:
    """One call of a submodule.

    arguments:
        None where they are not tensors and plain constants.
    within:
        Paths of the modules that were running, the outermost first.
    macs:
        MACs of everything the call ran, up to the failure if it failed.
    """

    path: str
    arguments: Arguments | None
    within: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class Read:
    """A parameter or buffer that the model's code read by the attribute of a module: ``conv.weight.device``.

    path:
        Path of the module that holds it.
    within:
        Paths of the modules that were running, outermost first.
    """

    path: str
    within: tuple[str, ...]


@dataclass(frozen=True)
class Observed:
    """All calls of a run, in the order of their beginning; ``stopped`` says why it ended early."""

    calls: tuple[Call, ...]
    macs: int
    stopped: str | None
    reads: tuple[Read, ...] = ()


def observe(model: nn.Module, inputs: Sequence[Tensor]) -> Observed:
    """Run a copy of ``model`` on ``inputs`` (on fake ones if that will do)."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # those of the model's own code are told when it is really used
        first, second = duplicate(model), duplicate(model)
        with FakeTensorMode(allow_non_fake_inputs=True), unlogged():
            fakes = [torch.empty(t.shape, dtype=t.dtype, device=device) for t in inputs]
            faked = _run(first, fakes)
        if faked.stopped is None or any(t.is_meta for t in inputs):
            return faked
        real = _run(second, [t.to(device) for t in inputs])
    return real if len(real.calls) >= len(faked.calls) else faked


def _run(model: nn.Module, inputs: Sequence[Tensor]) -> Observed:
    stopped = None
    with FlopCounterMode(display=False) as counter:
        log = _Log(model, counter)
        try:
            with log.reading():
                model(*inputs)
        except Exception as error:
            line = user_line(error)
            stopped = f"{type(error).__name__}: {first_line(error)}" + (f" ({line})" if line else "")
        return Observed(log.calls(), counter.get_total_flops() // 2, stopped, log.reads())


class _Log:
    """Hooks on every module of a model."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self._counter = counter
        self._began: list[tuple[str, Arguments | None, tuple[str, ...], int]] = []
        self._ended: dict[int, int] = {}
        self._running: list[int] = []
        self._paths = {module: path for path, module in model.named_modules()}
        self._reads: dict[Read, None] = {}
        for path, module in model.named_modules():
            if path:
                module.register_forward_pre_hook(self._before(path), with_kwargs=True)
                module.register_forward_hook(self._after, with_kwargs=True, always_call=True)

    def calls(self) -> tuple[Call, ...]:
        """Recorded calls."""
        now = self._counter.get_total_flops()
        return tuple(
            Call(path, arguments, within, (self._ended.get(i, now) - flops) // 2)
            for i, (path, arguments, within, flops) in enumerate(self._began)
        )

    def reads(self) -> tuple[Read, ...]:
        """Recorded reads, each once."""
        return tuple(self._reads)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Meanwhile reads of parameters and buffers by the model's code are recorded."""
        get: Any = nn.Module.__getattr__

        @functools.wraps(get)
        def read(module: nn.Module, name: str) -> Any:
            value = get(module, name)
            file = sys._getframe(1).f_code.co_filename
            if isinstance(value, Tensor) and module in self._paths and not file.startswith(FOREIGN):
                within = tuple(self._began[i][0] for i in self._running)
                self._reads[Read(self._paths[module], within)] = None
            return value

        with patch.object(nn.Module, "__getattr__", read):
            yield

    def _before(self, path: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            within = tuple(self._began[i][0] for i in self._running)
            self._running.append(len(self._began))
            self._began.append(
                (path, _arguments(module, args, kwargs), within, self._counter.get_total_flops())
            )

        return note

    def _after(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self._ended[self._running.pop()] = self._counter.get_total_flops()


def _arguments(module: nn.Module, args: Any, kwargs: Any) -> Arguments | None:
    try:
        return Arguments.of(module, args, kwargs)
    except (NotPlainError, TypeError, ValueError):
        return None
