"""A plan keeps the modules that tracing could not be trusted with: load and reference trace as convert did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import PlanError
from octify.plan import Plan
from octify.trace.noise import same

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Guessing(nn.Module):
    """Its code asks for a value, and goes on without it: traced, it computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        try:
            shift = float(x.mean())
        except Exception:
            shift = 0.0
        return self.a(x + shift)


class Root(nn.Module):
    """The same in the model's own code, around blocks that can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3)
        self.body = _block(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        try:
            shift = float(x.mean())
        except Exception:
            shift = 0.0
        return self.body(x + shift)


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
    )


def inner() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(_block(3), Guessing(), _block(16)).eval()


def root() -> nn.Module:
    torch.manual_seed(0)
    return Root().eval()


@pytest.mark.parametrize(("make", "path"), [(inner, "1"), (root, "")])
def test_a_plan_names_what_is_run_as_it_is_and_is_followed(make: Any, path: str, tmp_path: Path) -> None:
    model = make()
    made = octify.convert(model, X, rules="everywhere", kernels="exact")
    (leaf,) = made.plan.leaves
    assert leaf.path == path and "computes something else" in leaf.reason
    assert made.report.totals.converted > 0

    made.save(tmp_path / "octave")
    loaded = octify.load(tmp_path / "octave", make())
    replayed = octify.convert(model, X, plan=made.plan)
    projected = octify.reference(model, made.plan, X)
    with torch.no_grad():
        y = made.model(X)
        assert same(loaded(X), y) and same(replayed.model(X), y)
        # Exact kernels are the reference to rounding error.
        assert torch.allclose(
            projected(X), y, rtol=0, atol=64 * torch.finfo(y.dtype).eps * float(y.abs().max())
        )
    assert replayed.plan == made.plan


class Deciding(nn.Module):
    """It cannot be traced, and what it calls is traced to something else."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), Guessing(), nn.Conv2d(16, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.part(x)
        return y if float(y.abs().max()) < 1e9 else y * 2


def deciding() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(_block(3), Deciding(), _block(16)).eval()


def test_a_plan_says_that_nothing_inside_is_traced(tmp_path: Path) -> None:
    model = deciding()
    made = octify.convert(model, X, rules="everywhere", kernels="exact")
    assert not made.plan.inside and made.plan.convs
    assert Plan.from_dict(json.loads(json.dumps(made.plan.to_dict()))) == made.plan

    made.save(tmp_path / "octave")
    loaded = octify.load(tmp_path / "octave", deciding())
    replayed = octify.convert(model, X, plan=made.plan)
    with torch.no_grad():
        y = made.model(X)
        assert same(loaded(X), y) and same(replayed.model(X), y)
        assert octify.reference(model, made.plan, X)(X).shape == y.shape
    assert replayed.plan == made.plan


def test_leaves_survive_json_and_old_plans_have_none() -> None:
    plan = octify.convert(inner(), X, rules="everywhere").plan
    document = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(document) == plan
    del document["leaves"]
    assert Plan.from_dict(document) == replace(plan, leaves=())


def test_a_leaf_that_the_model_lacks_is_refused() -> None:
    model = inner()
    plan = octify.convert(model, X, rules="everywhere").plan
    other = replace(plan, leaves=(replace(plan.leaves[0], path="no.such"),))
    for use in (lambda: octify.convert(model, X, plan=other), lambda: octify.reference(model, other, X)):
        with pytest.raises(PlanError, match=r"no\.such"):
            use()
