"""BatchNorm re-estimation: the lightest repair, new running statistics and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate(model: nn.Module, chunks: Sequence[tuple[Tensor, ...]]) -> int:
    """Replace the running statistics of every BatchNorm of ``model``, in place, by those of ``chunks``.

    Only BatchNorms are in training mode meanwhile, so dropout stays off. Returns how many there are.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.training = True
    for chunk in chunks:
        model(*chunk)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes:
        module.training = training
    return len(norms)
