"""The two oracles on real models: alpha 0 is the original, "exact" kernels are the projected reference.

The default suite takes some models at small inputs; ``pytest -m zoo tests/models`` takes all.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octify
from octify.layout.channels import mask_of
from octify.passes.reference import reference
from octify.passes.resolve import resolve
from octify.passes.rewrite import rewrite
from octify.planning.choose import cells
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import Traced, trace
from tests.models import zoo
from tests.models.comparing import difference, run, tolerance

ALPHAS = (0.125, 0.25, 0.5, 0.75, 1.0)
EVERYDAY = {
    "torchvision:resnet18": (0.5,),
    "torchvision:mobilenet_v2": (0.25,),
    "timm:resnet26d": (0.25,),
    "timm:regnety_002": (0.5,),
    "samples/mobilenetv2_se.py": (1.0,),
    "samples/unet.py": (0.25, 1.0),
    "samples/digits_resnet.py": ALPHAS,
}


def _cases(models: Iterable[str] | dict[str, tuple[float, ...]]) -> list[tuple[str, float]]:
    alphas = models if isinstance(models, dict) else dict.fromkeys(models, ALPHAS)
    return [(name, alpha) for name in models for alpha in alphas[name]]


@dataclass(frozen=True)
class Prepared:
    """A model, traced in both precisions, with an input and how far float32 is off on it."""

    x: Tensor
    single: Traced
    double: Traced
    noise: float


@functools.lru_cache(maxsize=1)  # the tests of a model follow each other, and models are large
def prepared(name: str, size: int) -> Prepared:
    model = zoo.build(name, settle_at=size)
    x = zoo.BY_NAME[name].example(size)
    wide = copy.deepcopy(model).double()
    noise = difference(run(model, x), run(wide, x.double()))
    return Prepared(x, trace(model, x), trace(wide, x.double()), noise)


def shuffled(traced: Traced, plan: octify.Plan, seed: int = 0) -> octify.Plan:
    """``plan`` with the same numbers of low channels, drawn at random instead of the last ones.

    They are exchanged within the cells of the coupled sets, so that what the graph ties stays tied.
    """
    layout, low = (resolved := resolve(traced, plan)).layout, resolved.low
    generator = np.random.default_rng(seed)
    drawn = np.zeros_like(low)
    for parts in cells(layout):
        for cell in parts:
            drawn[generator.choice(cell, size=int(low[cell].sum()), replace=False)] = True
    convs = []
    for conv in plan.convs:
        call = next((call for call in layout.convs if call.path == conv.path), None)
        if call is not None and conv.converted:
            into, out = mask_of(call.ids_in, drawn), mask_of(call.ids_out, drawn)
            conv = replace(
                conv,
                low_in=() if into is None or not conv.low_in else tuple(np.flatnonzero(into).tolist()),
                low_out=() if out is None else tuple(np.flatnonzero(out).tolist()),
            )
        convs.append(conv)
    return replace(plan, convs=tuple(convs))


def is_last(low: tuple[int, ...], channels: int) -> bool:
    """Whether the low channels are the last ones."""
    return low == tuple(range(channels - len(low), channels))


def assert_equals_reference(case: Prepared, plan: octify.Plan) -> None:
    converted, oracle = rewrite(case.double, plan).module, reference(case.double, plan)
    y, wide = run(converted, case.x.double()), run(oracle, case.x.double())
    assert difference(y, wide) <= 1e-10 * float(wide.abs().max())
    del converted, oracle
    expected = run(reference(case.single, plan), case.x)
    limit = tolerance(case.noise, difference(expected, wide), like=expected)
    assert difference(run(rewrite(case.single, plan).module, case.x), expected) <= limit


def check_exact(name: str, alpha: float, size: int) -> None:
    case = prepared(name, size)
    plan = make_plan(case.single, load_rules("everywhere"), alpha, "exact")
    assert any(conv.converted for conv in plan.convs)
    assert_equals_reference(case, plan)


def check_shuffled(name: str, size: int, alpha: float = 0.5) -> None:
    case = prepared(name, size)
    plan = shuffled(case.single, make_plan(case.single, load_rules("everywhere"), alpha, "exact"))
    assert not all(is_last(conv.low_out, conv.out_channels) for conv in plan.convs)
    assert_equals_reference(case, plan)


def check_alpha_0(name: str, size: int) -> None:
    model: nn.Module = zoo.build(name, settle_at=0)
    x = zoo.BY_NAME[name].example(size)
    for rules in ("default", "everywhere"):
        result = octify.convert(model, x, alpha=0, rules=rules)
        assert result.report.totals.converted == 0
        assert torch.equal(run(result.model, x), run(model, x))


@pytest.mark.parametrize("name", EVERYDAY)
def test_alpha_0_is_the_original(name: str) -> None:
    check_alpha_0(name, zoo.BY_NAME[name].small)


@pytest.mark.parametrize(("name", "alpha"), _cases(EVERYDAY))
def test_exact_kernels_equal_the_reference(name: str, alpha: float) -> None:
    check_exact(name, alpha, zoo.BY_NAME[name].small)


@pytest.mark.parametrize("name", ["timm:regnety_002", "samples/unet.py", "samples/digits_resnet.py"])
def test_exact_kernels_equal_the_reference_with_any_low_channels(name: str) -> None:
    check_shuffled(name, zoo.BY_NAME[name].small)


@pytest.mark.zoo
@pytest.mark.parametrize("name", zoo.NAMES)
def test_zoo_alpha_0_is_the_original(name: str) -> None:
    check_alpha_0(name, zoo.BY_NAME[name].size)


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "alpha"), _cases(zoo.NAMES))
def test_zoo_exact_kernels_equal_the_reference(name: str, alpha: float) -> None:
    check_exact(name, alpha, zoo.BY_NAME[name].size)


@pytest.mark.zoo
@pytest.mark.parametrize("name", zoo.NAMES)
def test_zoo_exact_kernels_equal_the_reference_with_any_low_channels(name: str) -> None:
    check_shuffled(name, zoo.BY_NAME[name].size)
