"""A model whose result is a tuple of tensors, for exporters that know no classes of the model's own."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from octify.trace.sameness import tensors_of

_PLAIN = (tuple, list, dict)


class Plain(nn.Module):
    """``model``, called alike; returns all tensors of its result, in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

        @functools.wraps(model.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return tuple(tensors_of(model(*args, **kwargs)))

        self.forward = forward


def plain(model: nn.Module, result: Any) -> nn.Module:
    """``model``, or a ``Plain`` of it where ``result``, what it returns, holds objects of unknown classes."""
    leaves = pytree.tree_leaves(result)
    return Plain(model) if any(tensors_of(each) and not hasattr(each, "shape") for each in leaves) else model
