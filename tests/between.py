"""An operation between two convolutions: what it takes to show that octify converts it exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from octify.kernels.taps import Scheme
from octify.layout.channels import mask_of
from octify.ops.emitter import Boundary
from octify.passes.reference import reference
from octify.passes.resolve import resolve
from octify.passes.rewrite import Rewritten, rewrite
from octify.plan import Plan
from octify.planning.choose import cells
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import Traced, trace
from tests.oracle import EXACT, assert_same, noise, randomised

CHANNELS = 8
ALPHAS = (0.25, 0.5, 1.0)


class Between(nn.Module):
    """A convolution, an operation, a convolution and the mean of every channel.

    No merge of a map is needed anywhere but for the operation.
    """

    def __init__(self, operation: nn.Module | Callable[..., Tensor], out: int = CHANNELS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.operation = operation
        self.last = nn.Conv2d(out, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x))).mean((2, 3))


@dataclass(frozen=True)
class Conversion:
    """A conversion with its rewriting and its own traced graph."""

    traced: Traced
    plan: Plan
    rewritten: Rewritten

    @property
    def boundaries(self) -> list[Boundary]:
        """Splits and merges of whole maps."""
        return [b for b in self.rewritten.boundaries if not b.vector]

    def low(self, path: str) -> int:
        """Number of low output channels of a convolution."""
        return len(self.plan.conv(path).low_out)


def converted(net: nn.Module, x: Tensor, alpha: float = 0.5, kernels: Scheme = "exact") -> Conversion:
    """``net`` converted wherever it can be."""
    traced = trace(net, x)
    plan = scattered(traced, make_plan(traced, load_rules("everywhere"), alpha, kernels))
    return Conversion(traced, plan, rewrite(traced, plan))


def scattered(traced: Traced, plan: Plan, seed: int = 0) -> Plan:
    """``plan`` with as many low channels, drawn at random within what the graph ties."""
    random = np.random.default_rng(seed)
    resolved = resolve(traced, plan)
    low = np.zeros_like(resolved.low)
    for cell in (cell for parts in cells(resolved.layout) for cell in parts):
        low[random.choice(cell, int(resolved.low[cell].sum()), replace=False)] = True
    calls = {conv.path: conv for conv in resolved.layout.convs}

    def side(ids: Any, old: tuple[int, ...]) -> tuple[int, ...]:
        mask = mask_of(ids, low) if old else None
        return () if mask is None else tuple(int(c) for c in np.flatnonzero(mask))

    convs = tuple(
        replace(
            conv,
            low_in=side(calls[conv.path].ids_in, conv.low_in),
            low_out=side(calls[conv.path].ids_out, conv.low_out),
        )
        if conv.path in calls
        else conv
        for conv in plan.convs
    )
    return replace(plan, convs=convs)


def assert_exact(
    operation: nn.Module | Callable[..., Tensor],
    out: int = CHANNELS,
    size: tuple[int, int] = (8, 12),
    alphas: tuple[float, ...] = ALPHAS,
    net: nn.Module | None = None,
) -> None:
    """``operation`` on an octave value needs no split or merge and equals the projected reference."""
    model = randomised(Between(operation, out) if net is None else net)
    x = noise(2, 3, *size)
    with torch.no_grad():
        for alpha in alphas:
            made = converted(model, x, alpha)
            assert made.low("first") >= int(alpha * CHANNELS) - 1 > 0
            assert made.boundaries == [], [(b.kind, b.before, b.reason) for b in made.boundaries]
            assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)


def assert_refused(operation: nn.Module | Callable[..., Tensor], reason: str, out: int = CHANNELS) -> None:
    """``operation`` needs a dense map, for a reason that contains ``reason``; the answer is right."""
    model = randomised(Between(operation, out))
    x = noise(2, 3, 8, 12)
    made = converted(model, x)
    reasons = [b.reason for b in made.boundaries if b.kind == "merge"]
    assert any(reason in found for found in reasons), reasons
    with torch.no_grad():
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)
