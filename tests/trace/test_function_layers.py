"""Convolutions that are called as functions: layers of the graph, with what is trained the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.trace import trace
from tests.oracle import EXACT, assert_same, noise

Use = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A convolution before and behind what ``use`` computes with ``w`` (8, 8, 3, 3), ``v`` and ``b``."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.w, self.v = nn.Parameter(torch.randn(8, 8, 3, 3) / 9), nn.Parameter(torch.randn(8, 8, 3, 3) / 9)
        self.b = nn.Parameter(torch.randn(8))
        self.register_buffer("mask", (torch.randn(8, 8, 3, 3) > 0).float())
        self.use = use
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.use(self, self.a(x)).relu())


USES: dict[str, tuple[Use, int]] = {
    "plain": (lambda m, x: F.conv2d(x, m.w, m.b, padding=1), 1),
    "by name": (lambda m, x: F.conv2d(weight=m.w, input=x, stride=2, padding=1), 1),
    "same": (lambda m, x: torch.conv2d(x, m.w, padding="same"), 1),
    "scaled": (lambda m, x: F.conv2d(x, m.w * 0.5, m.b * 2, padding=1), 1),
    "masked": (lambda m, x: F.conv2d(x, m.w * m.mask, padding=1), 1),
    "of two": (lambda m, x: F.conv2d(x, m.w + m.v.flip(2), padding=1), 1),
    "normed": (lambda m, x: F.conv2d(x, F.normalize(m.w, dim=1), padding=1), 1),
    "standardised": (lambda m, x: F.conv2d(x, (m.w - m.w.mean()) / m.w.std(), padding=1), 1),
    "1x1 of a mean": (lambda m, x: F.conv2d(x, m.w.mean((2, 3), keepdim=True)), 1),
    "grouped": (lambda m, x: F.conv2d(x, m.w[:, :4], padding=1, groups=2), 1),
    "buffer": (lambda m, x: F.conv2d(x, m.mask, padding=2, dilation=2), 1),
    "transposed": (lambda m, x: F.conv_transpose2d(x, m.w, m.b, stride=2, padding=1, output_padding=1), 1),
    "one layer twice": (lambda m, x: F.conv2d(F.conv2d(x, m.w, padding=1).relu(), m.w, padding=1), 1),
    "two layers": (lambda m, x: F.conv2d(F.conv2d(x, m.w, padding=1), m.w, padding=1, dilation=1, bias=m.b), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
@given(alpha=st.sampled_from([0.25, 0.5, 1.0]), size=st.sampled_from([8, 12]))
def test_converted(name: str, alpha: float, size: int) -> None:
    """They are converted; exact kernels equal the reference, and alpha 0 the original."""
    use, layers = USES[name]
    model, x = Net(use), noise(2, 3, size, size)
    with torch.no_grad():
        assert_same(octify.convert(model, x, alpha=0).model(x), model(x), EXACT)
        result = octify.convert(model, x, rules="everywhere", alpha=alpha, kernels="exact")
        assert sum("conv" in conv.path and conv.converted for conv in result.plan.convs) == layers
        assert_same(result.model(x), octify.reference(model, result.plan, x)(x), EXACT)


@pytest.mark.parametrize("name", USES)
def test_the_parameters_are_the_models(name: str) -> None:
    """At alpha 0 a training step has the model's gradients, under the same names."""
    model, x = Net(USES[name][0]), noise(2, 3, 8, 8)
    converted = octify.convert(model, x, alpha=0).model.train()
    model.train()
    assert converted.state_dict().keys() <= model.state_dict().keys()
    for each in (model, converted):
        each(x).square().mean().backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = dict(converted.named_parameters())
    for name, gradient in wanted.items():
        assert_same(found[name].grad, gradient, EXACT)


class Weighted(nn.Module):
    """A layer of the user's own, whose forward is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3) / 9)
        self.conv2d = 3  # a name that is taken

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 0.3, padding=1)


def test_they_are_named_after_the_module_whose_code_calls_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Weighted(), Weighted(), nn.Conv2d(8, 3, 1)).double().eval()
    paths = [conv.path for conv in octify.convert(model, noise(1, 3, 8, 8), rules="everywhere").plan.convs]
    assert paths == ["0", "1.conv2d_1", "2.conv2d_1", "3"]
    assert not any(isinstance(m, nn.Conv2d) for m in model[1].modules())


LEFT: dict[str, Use] = {
    "of the input": lambda m, x: F.conv2d(x, m.w * x.mean(), padding=1),
    "drawn": lambda m, x: F.conv2d(x, m.w + 0 * torch.rand_like(m.w), padding=1),
    "depthwise": lambda m, x: F.conv2d(x, m.w[:, :1], padding=1, groups=8),
}


@pytest.mark.parametrize("name", LEFT)
def test_functions_they_stay(name: str) -> None:
    model, x = Net(LEFT[name]), noise(1, 3, 8, 8)
    functions = [n for n in trace(model, x).module.graph.nodes if n.target is F.conv2d]
    assert len(functions) == 1
    with torch.no_grad():
        result: Any = octify.convert(model, x, rules="everywhere", kernels="exact")
        assert_same(result.model(x), octify.reference(model, result.plan, x)(x), EXACT)
