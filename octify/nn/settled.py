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
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_OWN = ("forward", "_conv_forward")


def settled(layer: nn.Module) -> nn.Module:
    """A shallow copy of ``layer``, which shares its tensors, with attributes that agree."""
    made = copy.copy(layer)
    settle(made)
    return made


def settle(model: nn.Module) -> None:
    """Make the attributes of every layer of ``model`` (a copy of the user's) agree with what it computes."""
    for module in model.modules():
        if isinstance(module, _ConvNd):
            _settle_conv(module)
        elif isinstance(module, nn.Linear):
            _count(module, "weight", out_features=0, in_features=1)
        elif isinstance(module, _NormBase):
            _count(module, "weight", num_features=0)
            _count(module, "running_mean", num_features=0)
        elif isinstance(module, nn.PReLU):
            _count(module, "weight", num_parameters=0)


def _settle_conv(conv: _ConvNd) -> None:
    base = next((kind for kind in (*_PLAIN, *_TRANSPOSED) if isinstance(conv, kind)), None)
    if base is None or any(getattr(type(conv), name, None) is not getattr(base, name, None) for name in _OWN):
        return  # a forward of its own may read any attribute
    weight = _weight(conv)
    if weight is None:
        return
    settled: Any = conv
    dims = weight.ndim - 2
    transposed = isinstance(conv, _ConvTransposeNd)
    settled.kernel_size = tuple(int(n) for n in weight.shape[2:])
    first, second = int(weight.shape[0]), int(weight.shape[1]) * conv.groups
    settled.out_channels, settled.in_channels = (second, first) if transposed else (first, second)
    for name in ("stride", "dilation", "output_padding"):
        setattr(settled, name, each(getattr(settled, name), dims))
    if not isinstance(conv.padding, str):
        settled.padding = each(conv.padding, dims)
    if conv.padding_mode == "zeros":  # else forward reads the private copy, and not ``padding``
        settled._reversed_padding_repeated_twice = _repeated(settled, dims)


def each(value: Any, dims: int) -> tuple[int, ...]:
    """A setting as one number for each of ``dims`` axes, as PyTorch's functions take it."""
    given = tuple(int(n) for n in value) if isinstance(value, (tuple, list)) else (int(value),)
    return given * dims if len(given) == 1 else given


def _repeated(conv: Any, dims: int) -> list[int]:
    """``padding`` as (last axis left, right, ..., first axis left, right)."""
    if conv.padding == "valid":
        return [0] * (2 * dims)
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [n for total in reversed(totals) for n in (total // 2, total - total // 2)]
    return [n for amount in reversed(conv.padding) for n in (amount, amount)]


def _weight(module: nn.Module, name: str = "weight") -> Tensor | None:
    weight = getattr(module, name, None)
    lazy = isinstance(weight, (UninitializedParameter, UninitializedBuffer))
    return weight if isinstance(weight, Tensor) and not lazy else None


def _count(module: nn.Module, tensor: str, **dims: int) -> None:
    """Set attributes to the lengths of a tensor's dimensions."""
    found = _weight(module, tensor)
    for name, dim in dims.items() if found is not None else ():
        assert found is not None
        if dim < found.ndim:
            setattr(module, name, int(found.shape[dim]))
