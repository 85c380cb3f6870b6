"""A model whose result is a tuple of tensors, for exporters that know no classes of the model's own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octify.compat import tree_leaves, tree_map_only
from octify.trace.opened import is_closed, opened


class Plain(nn.Module):
    """``model``, called alike; returns all tensors of its result, in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

        @functools.wraps(model.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            leaves = tree_leaves(opened(model(*args, **kwargs)))
            return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

        self.forward = forward


def plain(model: nn.Module, inputs: Sequence[Any]) -> nn.Module:
    """``model``; or a ``Plain`` of it where its result has tensors in objects that exporters cannot open."""
    own = tree_map_only(Tensor, torch.clone, tuple(inputs))
    with torch.no_grad():
        return Plain(model) if is_closed(model(*own)) else model
