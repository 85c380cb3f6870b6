"""Parameters that a model's own forward changes: ``self.weight.data = torch.renorm(...)``."""

from __future__ import annotations

import torch
from torch import nn

from octify.checks.words import some


def changed_parameters(model: nn.Module, run_once: nn.Module) -> list[str]:
    """Names of parameters that ``run_once``, a copy of ``model`` that was run, has changed or set anew."""
    before = dict(model.named_parameters())
    return [
        name
        for name, parameter in run_once.named_parameters()
        if name in before and (parameter._version or not _same(parameter, before[name]))
    ]


def _same(one: nn.Parameter, other: nn.Parameter) -> bool:
    return one.device == other.device and one.shape == other.shape and torch.equal(one, other)


def on_changes(model: nn.Module, run_once: nn.Module) -> list[str]:
    """A sentence on the parameters that ``model``'s forward changes; none where it changes none."""
    names = changed_parameters(model, run_once)
    if not names:
        return []
    return [
        f"the model's forward changes its parameters ({some(names)}): a converted layer "
        "has them as they are after a forward, and does not change them in training"
    ]
