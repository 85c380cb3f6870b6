"""Convolutions by the node that calls them, linear layers of maps among them."""

from __future__ import annotations

from torch import Tensor, nn

from octify.layout.channels import ConvNode
from octify.ops.linear import conv_form
from octify.trace import Traced

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def convolution(traced: Traced, conv: ConvNode) -> Conv | None:
    """The convolution of a node; None for a transposed one.

    A linear layer is the 1x1 convolution over as many axes as its value has positions along: two of
    (N, H, W, C), one of tokens (N, H W, C).
    """
    shape = traced.facts[conv.node].shape
    assert shape is not None
    module = conv_form(traced.module.get_submodule(conv.path), len(shape) - 2)
    return module if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else None


def channels_second(traced: Traced, conv: ConvNode, *values: Tensor) -> tuple[Tensor, ...]:
    """Input and output of a node as (N, C, *size): a linear layer has its channels last."""
    last = isinstance(traced.module.get_submodule(conv.path), nn.Linear)
    return tuple(value.movedim(-1, 1) for value in values) if last else values
