"""The training mode of every module: a model in training may hold layers that are frozen in eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


def modes_of(model: nn.Module) -> Mapping[str, bool]:
    """``training`` by path, of every path that leads to a module."""
    return {path: module.training for path, module in model.named_modules(remove_duplicate=False)}


def set_modes(module: nn.Module, modes: Mapping[str, bool]) -> nn.Module:
    """Give ``module``, made from the model that had ``modes``, the same; returns it.

    What is not in the model (the two halves of a layer, say) is in the mode of the nearest module above it.
    """
    for path, each in module.named_modules(remove_duplicate=False):
        each.training = _nearest(path, modes)
    return module


def _nearest(path: str, modes: Mapping[str, bool]) -> bool:
    while path and path not in modes:
        path = path.rpartition(".")[0]
    return modes.get(path, False)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module of ``model`` is in the mode that it is in now.

    A ``train`` that was set on a model may go on to call the model's own from a copy of it.
    """
    modes = [(each, each.training) for each in model.modules()]
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Meanwhile ``module`` and all below it are in eval mode, where norms move no statistics."""
    with modes_kept(module):
        module.eval()
        yield
