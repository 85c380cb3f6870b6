"""Multiplying a basis into the weights on both sides of a stream, in place, in double precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octify.export.norm import norm_of

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LEAST = 1e-12


@torch.no_grad()
def mix_inputs(layer: nn.Module, matrix: Tensor) -> None:
    """Make ``layer`` compute ``layer(matrix x)``; matrix (C, C) float64; ``x`` may be flattened."""
    weight = layer.get_parameter("weight")
    own = weight.detach().double().cpu()
    if isinstance(layer, _TRANSPOSED):
        mixed = matrix.T @ own.flatten(1)
    else:
        mixed = matrix.T @ own.reshape(len(own), len(matrix), -1)
    weight.copy_(mixed.reshape(own.shape))


@torch.no_grad()
def mix_outputs(layer: nn.Module, matrix: Tensor) -> None:
    """Make ``layer`` compute ``matrix layer(x)``; matrix (C, C) float64."""
    weight, bias = layer.get_parameter("weight"), dict(layer.named_parameters(recurse=False)).get("bias")
    own = weight.detach().double().cpu()
    if isinstance(layer, _TRANSPOSED):
        mixed = matrix @ own.flatten(2)
    else:
        mixed = (matrix @ own.flatten(1)).reshape(own.shape)
    weight.copy_(mixed.reshape(own.shape))
    if bias is not None:
        bias.copy_(matrix @ bias.detach().double().cpu())


@torch.no_grad()
def mix_normalised(layer: nn.Module, norm: nn.Module, matrix: Tensor, spread: Tensor) -> None:
    """Make ``norm(layer(x))`` compute ``matrix norm(layer(x))``.

    The scale goes through the matrix into the layer, and BatchNorm stays one of the new channels: running
    statistics are what training would find, so it can go on from there; in eval mode they cancel, whatever
    they are.

    Parameters
    ----------
    matrix:
        (C, C) float64.
    spread:
        Variance of each new channel over what it would be were the old ones uncorrelated, (C,) float64.
    """
    batch_norm: Any = norm
    affine = norm_of(norm)
    assert affine is not None
    scale, gain = affine.scale.cpu(), batch_norm.weight.detach().double().cpu()
    size = float(layer.get_parameter("weight").detach().double().norm())
    mix_outputs(layer, matrix * scale)
    weight = layer.get_parameter("weight")
    # The layer's weight keeps its size, which training's step length and weight decay are made for.
    unit = float(weight.detach().double().norm()) / size if size else 1.0
    unit = unit or 1.0
    for parameter in layer.parameters(recurse=False):
        parameter.div_(unit)
    mean = matrix @ (scale * batch_norm.running_mean.detach().double().cpu()) / unit
    variance = (matrix.square() @ gain.square() * spread / unit**2).clamp_min(_LEAST)
    bias = matrix @ batch_norm.bias.detach().double().cpu()
    batch_norm.running_mean.copy_(mean)
    batch_norm.running_var.copy_(variance)
    # With the statistics as they are stored: in what precision does not matter then.
    deviation = (batch_norm.running_var.detach().double().cpu() + float(batch_norm.eps)).sqrt()
    batch_norm.weight.copy_(unit * deviation)
    batch_norm.bias.copy_(bias)
