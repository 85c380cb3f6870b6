"""Form for structured pruners: every selection of channels as a convolution.

Torch-Pruning follows channels through convolutions, sums, pooling, upsampling and concatenation, so
through the four paths of an octave convolution and the sums of their outputs; an ``index_select`` it takes
for an operation on each channel alone, and removes the wrong ones behind it. Selecting is linear:

    select(X, i) = E[i] * X        (E the identity, * a 1x1 convolution)

and of a convolution the pruner removes inputs and outputs independently of one another.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import nn

from octify.nn.channels import Gather


def prunable(model: nn.Module) -> nn.Module:
    """A copy of a converted ``model`` (on images, N x C x H x W) that a structured pruner can follow.

    It computes what ``model`` does. Each ``Gather`` of its splits and merges is a 1x1 ``nn.Conv2d`` with
    the rows of an identity matrix as weights, which costs C_in * C_out MACs per position; one that selects
    every channel in order is an ``nn.Identity``. A pruned model no longer fits its plan: keep it as a state
    dict of its own, or as ONNX.
    """
    result = copy.deepcopy(model)
    like = next(
        (t for t in chain(result.parameters(), result.buffers()) if t.is_floating_point()), torch.ones(())
    )
    for path, module in list(result.named_modules()):
        if isinstance(module, Gather):
            result.set_submodule(path, _as_convolution(module, like))
    return result


def _as_convolution(gather: Gather, like: torch.Tensor) -> nn.Module:
    if gather.indices == tuple(range(gather.channels)):
        return nn.Identity()
    conv = nn.Conv2d(gather.channels, len(gather.indices), 1, bias=False, device="meta")
    rows = torch.eye(gather.channels, dtype=like.dtype, device=like.device)[list(gather.indices)]
    conv.weight = nn.Parameter(rows[:, :, None, None].contiguous())
    return conv
