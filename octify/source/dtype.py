"""Example inputs in the number format that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octify.checks.door import check_inputs
from octify.trace.duplicate import duplicate
from octify.trace.trial import run


def in_models_dtype(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """``inputs``, those in float32 in the format of the model's parameters if it takes only that.

    A model in half precision, bfloat16 or float64 rejects what ``torch.randn`` gives; a model that takes
    float32 all the same, and converts it itself, is left to do so. ``model`` is run (in eval mode, as a copy
    with buffers of its own) only where the formats differ.
    """
    originals = tuple(inputs)
    own = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(own) != 1 or torch.float32 in own or all(x.dtype is not torch.float32 for x in originals):
        return originals
    (dtype,) = own
    adapted = tuple(x.to(dtype) if x.dtype is torch.float32 else x for x in originals)
    return originals if _takes(model, originals) or not _takes(model, adapted) else adapted


def examples_of(model: nn.Module, inputs: Any) -> tuple[Tensor, ...]:
    """``inputs``, as the library's user gave them, as tensors that ``model`` takes. Raises OctifyError."""
    return in_models_dtype(model, check_inputs(inputs, model))


def _takes(model: nn.Module, inputs: Sequence[Tensor]) -> bool:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    copy: nn.Module = duplicate(model).eval()
    return run(copy, [x.detach().to(device) for x in inputs]).error is None
