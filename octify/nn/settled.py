"""Layers whose hyper-parameters were set after they were made, brought to what they compute now.

A dilated backbone is often a plain one whose ``stride`` and ``dilation`` were assigned later. What a layer
computes is decided by its weights and by the attributes that its ``forward`` reads; the other attributes
(channel counts, kernel size, the private copy of the padding, numbers where tuples are usual) are stale
then. Here they are made to agree, so that everything behind the tracing may read any of them.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from octify.compat import CONV_FORWARD, ConvNd, ConvTransposeNd, NormBase, set_reversed_pads

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def settled(layer: nn.Module) -> nn.Module:
    """A shallow copy of ``layer``, which shares its tensors, with attributes that agree."""
    result = copy.copy(layer)
    settle(result)
    return result


def settle(model: nn.Module) -> None:
    """Make the attributes of every layer of ``model`` (a copy of the user's) agree with what it computes."""
    for module in model.modules():
        if isinstance(module, ConvNd):
            _settle_conv(module)
        elif isinstance(module, nn.Linear):
            _count(module, "weight", out_features=0, in_features=1)
        elif isinstance(module, NormBase):
            _count(module, "weight", num_features=0)
            _count(module, "running_mean", num_features=0)
        elif isinstance(module, nn.PReLU):
            _count(module, "weight", num_parameters=0)


def _settle_conv(conv: ConvNd) -> None:
    base = next((kind for kind in (*_PLAIN, *_TRANSPOSED) if isinstance(conv, kind)), None)
    if base is None or any(
        getattr(type(conv), name, None) is not getattr(base, name, None) for name in CONV_FORWARD
    ):
        return  # a forward of its own may read any attribute
    weight = _weight(conv)
    if weight is None:
        return
    settled: Any = conv
    dims = weight.ndim - 2
    transposed = isinstance(conv, ConvTransposeNd)
    settled.kernel_size = tuple(int(n) for n in weight.shape[2:])
    first, second = int(weight.shape[0]), int(weight.shape[1]) * conv.groups
    settled.out_channels, settled.in_channels = (second, first) if transposed else (first, second)
    for name in ("stride", "dilation", "output_padding"):
        setattr(settled, name, each(getattr(settled, name), dims))
    if not isinstance(conv.padding, str):
        settled.padding = each(conv.padding, dims)
    if conv.padding_mode == "zeros":  # else forward reads the private copy, and not ``padding``
        set_reversed_pads(settled)


def each(value: Any, dims: int) -> tuple[int, ...]:
    """A setting as one number for each of ``dims`` axes, as PyTorch's functions take it."""
    numbers = tuple(int(n) for n in value) if isinstance(value, (tuple, list)) else (int(value),)
    return numbers * dims if len(numbers) == 1 else numbers


def _weight(module: nn.Module, name: str = "weight") -> Tensor | None:
    weight = getattr(module, name, None)
    lazy = isinstance(weight, (UninitializedParameter, UninitializedBuffer))
    return weight if isinstance(weight, Tensor) and not lazy else None


def _count(module: nn.Module, tensor: str, **dims: int) -> None:
    """Set attributes to the lengths of a tensor's dimensions."""
    weight = _weight(module, tensor)
    for name, dim in dims.items() if weight is not None else ():
        assert weight is not None
        if dim < weight.ndim:
            setattr(module, name, int(weight.shape[dim]))
