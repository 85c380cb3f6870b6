"""A peer for the speed table: structured pruning (Torch-Pruning) at equal MACs, in whole blocks."""

from __future__ import annotations

import copy

import torch
import torch_pruning
from torch import Tensor, nn

from tests.benchmarks.accuracy.peers import macs

BLOCK = 16  # channels left are multiples of it, as octify's `fast` rules have them
_BISECTIONS = 7


def pruned(model: nn.Module, example: Tensor, share: float) -> nn.Module:
    """A copy of ``model`` without the channels of least magnitude, at about ``share`` of its MACs.

    All coupled sets lose the same share of their channels; classifiers keep their outputs.
    """
    whole = macs(model, example)
    low, high = 0.0, 0.95  # pruning ratios that leave too much, and too little
    best, miss = model, float("inf")
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        candidate = _pruned(model, example, middle)
        found = macs(candidate, example) / whole
        if abs(found - share) < miss:
            best, miss = candidate, abs(found - share)
        low, high = (middle, high) if found > share else (low, middle)
    return best


def _pruned(model: nn.Module, example: Tensor, ratio: float) -> nn.Module:
    copied = copy.deepcopy(model)
    with torch.enable_grad():
        torch_pruning.pruner.BasePruner(
            copied,
            example,
            torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            round_to=BLOCK,
            ignored_layers=[m for m in copied.modules() if isinstance(m, nn.Linear) and _is_last(copied, m)],
        ).step()
    return copied.eval()


def _is_last(model: nn.Module, layer: nn.Linear) -> bool:
    *_, last = (m for m in model.modules() if isinstance(m, nn.Linear))
    return layer is last
