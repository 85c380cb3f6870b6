"""Deep copies of modules that ``copy.deepcopy`` refuses, or copies by half.

A tensor with a gradient history (a pruned weight, a weight of hook-based weight or spectral norm, a kept
feature map) cannot be copied by PyTorch; its copy here has the values without the history. A function that
was set on a module, or hooked to it, is copied by reference, and would go on to call what it has closed over:
the module it was made for; its copy here calls the copy.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import CellType, FunctionType, MethodType
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from octify.compat import FakeTensor, hook_tables
from octify.errors import OctifyError, TraceError


def duplicate(module: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy of ``module``; what ``memo`` holds by ``id`` is not copied but taken from there.

    Raises TraceError, with the attribute, where Python cannot copy what a module holds: a lock, an open file.
    """
    memo = {} if memo is None else memo
    with _without_history():
        try:
            result = copy.deepcopy(module, memo)
        except (OctifyError, MemoryError):
            raise
        except Exception as error:
            raise _not_copied(module, error) from error
    for each in result.modules():
        _rebind(each, memo)
    return result


def _not_copied(module: nn.Module, error: Exception) -> TraceError:
    # What a hand-written __deepcopy__ says may have several lines.
    why = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['it says no more'])[0]}"
    return TraceError(
        f"{type(module).__name__} cannot be copied",
        where=_place_of_failure(module),
        why=f"octify works on copies, and leaves the model as it is: {why}",
        hint="keep such objects outside of modules, or let the class leave them out in __deepcopy__",
    )


def _place_of_failure(root: nn.Module) -> str | None:
    """The attribute, by path, that cannot be copied on its own; None where no single one is to blame."""
    shared: dict[int, Any] = {
        id(each): each for each in (*root.modules(), *root.parameters(), *root.buffers())
    }
    for path, module in root.named_modules():
        for name, value in vars(module).items():
            try:
                copy.deepcopy(value, dict(shared))
            except Exception:
                return f"{'.'.join(filter(None, (path, name)))} ({type(module).__name__})"
    return None


def sharing_tensors(module: nn.Module) -> Any:
    """A copy of ``module`` that holds the very same parameters and buffers, which a run might change."""
    return duplicate(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


@contextmanager
def _without_history() -> Iterator[None]:
    original: Any = Tensor.__deepcopy__

    @functools.wraps(original)  # torch's modes go by the name
    def copied(self: Tensor, memo: dict[int, Any]) -> Any:
        # A weight that a hook has computed of a fake one is fake until the hook runs again.
        if id(self) in memo or (self.grad_fn is None and not isinstance(self, FakeTensor)):
            return original(self, memo)
        clone = memo[id(self)] = self.detach().clone()
        return clone

    with patch.object(Tensor, "__deepcopy__", copied):
        yield


def _rebind(module: nn.Module, memo: dict[int, Any]) -> None:
    """Let functions set on ``module``, a copy, call copies of the modules they have closed over."""
    for name, value in list(vars(module).items()):
        if isinstance(value, FunctionType):
            object.__setattr__(module, name, _rebound(value, memo))
    for hooks in hook_tables(module):
        for key, hook in list(hooks.items()):
            if isinstance(hook, FunctionType):
                hooks[key] = _rebound(hook, memo)


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """``function``, or a copy of it whose cells hold the copies of modules that ``memo`` knows."""
    cells = function.__closure__ or ()
    values = [_in_copy(cell, memo) for cell in cells]
    if all(new is old for new, old in values):
        return function
    result = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cell if new is old else CellType(new) for cell, (new, old) in zip(cells, values, strict=True)),
    )
    result.__kwdefaults__ = function.__kwdefaults__
    result.__dict__.update(function.__dict__)
    return result


def _in_copy(cell: CellType, memo: dict[int, Any]) -> tuple[Any, Any]:
    """Contents of a cell's copy and of the cell."""
    try:
        held = cell.cell_contents
    except ValueError:  # not yet assigned
        return None, None
    if isinstance(held, nn.Module):
        return memo.get(id(held), held), held
    if isinstance(held, MethodType) and isinstance(held.__self__, nn.Module) and id(held.__self__) in memo:
        return MethodType(held.__func__, memo[id(held.__self__)]), held
    if isinstance(held, FunctionType):
        return _rebound(held, memo) if held.__closure__ and id(held) not in memo else held, held
    return held, held
