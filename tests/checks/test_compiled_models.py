"""What was compiled from a model is refused, with what to give instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import octify
from octify.errors import OctifyError

X = torch.randn(1, 3, 8, 8)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).eval()


MAKERS: dict[str, Callable[[], Any]] = {
    "scripted": lambda: torch.jit.script(net()),
    "traced": lambda: torch.jit.trace(net(), X),
    "program": lambda: torch.export.export(net(), (X,)),
    "module of a program": lambda: torch.export.export(net(), (X,)).module(),
}


@pytest.mark.parametrize("name", MAKERS)
def test_compiled_models_are_refused(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        model = MAKERS[name]()
    for use in (octify.convert, octify.profile, octify.inspect):
        with pytest.raises(OctifyError, match="give the Python model"):
            use(model, X)


def test_a_lazy_model_is_refused_until_it_has_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules are a new feature
        model = nn.Sequential(nn.LazyConv2d(8, 3, padding=1), nn.ReLU(), nn.LazyConv2d(8, 3, padding=1))
    with pytest.raises(OctifyError, match="has no shape yet"):
        octify.convert(model, X)
    model(X)
    assert octify.convert(model, X, rules="everywhere").report.totals.converted == 2


def test_a_graph_of_the_models_own_layers_is_a_model() -> None:
    made = octify.convert(torch.fx.symbolic_trace(net()), X, rules="everywhere")
    assert made.report.totals.converted == 2
