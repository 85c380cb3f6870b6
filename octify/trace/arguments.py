"""Arguments of a module's call: tensors anywhere in them, and plain constants."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octify.compat import TreeSpec, tree_flatten, tree_flatten_with_path, tree_unflatten
from octify.trace.facts import InputSpec

_PLAIN = (bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device)


class NotPlainError(Exception):
    """An argument is neither a tensor nor a constant, nor a list, tuple or dict of them."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call, tied to parameters of ``forward`` whichever way they were given.

    names, inputs:
        A name and the specification of every tensor, in order.
    structure:
        The tree of ``{parameter: value}``.
    leaves:
        The leaves of that tree: an ``InputSpec`` for a tensor, or the constant itself.
    """

    names: tuple[str, ...]
    inputs: tuple[InputSpec, ...]
    structure: TreeSpec
    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        """Arguments of ``module(*args, **kwargs)``.

        Raises TypeError when ``forward`` does not take them, NotPlainError for other objects among them.
        """
        entries, structure = tree_flatten_with_path(_bound(module, args, kwargs))
        leaves, names = [], []
        for path, value in entries:
            if isinstance(value, Tensor):
                names.append(_name(path))
                value = InputSpec.of(value)
            elif not isinstance(value, _PLAIN):
                raise NotPlainError(f"{_name(path)} is a {type(value).__name__}")
            leaves.append(value)
        inputs = tuple(leaf for leaf in leaves if isinstance(leaf, InputSpec))
        return cls(tuple(names), inputs, structure, tuple(leaves))

    @property
    def form(self) -> tuple[Any, ...]:
        """Key that two calls of one graph share: everything but the tensors' sizes."""
        return self.structure, tuple(None if isinstance(leaf, InputSpec) else leaf for leaf in self.leaves)

    def filled(self, module: nn.Module, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with ``tensors`` in the tensors' places."""
        iterator = iter(tensors)
        leaves = [next(iterator) if isinstance(leaf, InputSpec) else leaf for leaf in self.leaves]
        bound = inspect.BoundArguments(
            inspect.signature(module.forward), OrderedDict(tree_unflatten(leaves, self.structure))
        )
        return bound.args, bound.kwargs

    def tensors(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The tensors of a call of the same form, in order; ValueError for a call of another form."""
        leaves, structure = tree_flatten(_bound(module, args, kwargs))
        constants = [
            None if isinstance(slot, InputSpec) else leaf
            for leaf, slot in zip(leaves, self.leaves, strict=False)
        ]
        if (structure, tuple(constants)) != self.form:
            raise ValueError(
                f"this {type(module).__name__} was converted for a call of the form {self}, "
                "and is now called with other arguments"
            )
        return [leaf for leaf, slot in zip(leaves, self.leaves, strict=True) if isinstance(slot, InputSpec)]

    def __str__(self) -> str:
        shown = [
            "x".join(map(str, leaf.shape)) if isinstance(leaf, InputSpec) else leaf for leaf in self.leaves
        ]
        return str(tree_unflatten(shown, self.structure))


def _bound(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _name(path: Sequence[Any]) -> str:
    """``{"x": tensor}`` -> ``x``; ``{"features": [a, b]}`` -> ``features_0``, ``features_1``."""
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return re.sub(r"\W", "_", "_".join(keys))
