"""What is compared: ``METHODS[name](case)`` makes a cheaper network of a trained one.

| method             | what it is                                                                        |
|--------------------|-----------------------------------------------------------------------------------|
| slice              | the last channels low, each path a slice of the original kernel, nothing repaired |
| exact              | the last channels low, exact kernels (more MACs), nothing repaired                |
| norm               | channels by energy, closed-form kernels, BatchNorm re-estimation                  |
| fast               | channels by energy, least squares                                                 |
| standard           | channels by the error after refitting, hinge refits, 300 steps of distillation    |
| spatial            | standard, with exchange in spatial convolutions only (spatial.toml)               |
| one-way            | standard, with exchange high to low alone in 1x1 convolutions (one_way.toml)      |
| synthetic          | standard, on images made from the network's BatchNorm statistics                  |
| thorough           | the same with 900 steps                                                           |
| pruned             | Torch-Pruning, group magnitude, at the MACs of `standard`; BatchNorm re-estimation |
| pruned + distilled | the same, then as many distillation steps as `thorough` takes                     |

Every method gets the same images and the same policy (rules.toml). Seeds decide which images are drawn
from the pool, and the random choices of calibration.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

import octify
from octify.nn import OctaveConv
from octify.nn.groups import Grouped
from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace
from tests.benchmarks.accuracy import data, nets, peers

RULES = Path(__file__).with_name("rules.toml")
SPATIAL = Path(__file__).with_name("spatial.toml")
ONE_WAY = Path(__file__).with_name("one_way.toml")
EXAMPLE = (1, 3, data.SIDE, data.SIDE)


@dataclass(frozen=True)
class Case:
    """A trained network, a share of low channels, and the images that may be calibrated on."""

    net: str
    task: str
    alpha: float
    images: int
    seed: int

    @cached_property
    def model(self) -> nn.Module:
        return nets.load(self.net, self.task)

    @cached_property
    def calibration(self) -> Tensor:
        """``images`` random ones of the pool, unlabelled."""
        pool = data.split(self.task, "pool").images
        generator = torch.Generator().manual_seed(self.seed)
        return pool[torch.randperm(len(pool), generator=generator)[: self.images]]


@dataclass(frozen=True)
class Made:
    """A cheaper network: its MACs over the original's, and the CPU seconds that making it took."""

    model: nn.Module
    macs_ratio: float
    seconds: float


def make(method: str, case: Case) -> Made:
    """``method``: a key of `METHODS`."""
    torch.manual_seed(case.seed)
    _ = case.model, case.calibration  # not timed
    start = time.process_time()
    model, ratio = METHODS[method](case)
    return Made(model.eval(), ratio, time.process_time() - start)


def _calibrated(
    effort: str, synthetic: bool = False, rules: Path = RULES
) -> Callable[[Case], tuple[nn.Module, float]]:
    def method(case: Case) -> tuple[nn.Module, float]:
        result = octify.convert(
            case.model,
            torch.zeros(EXAMPLE),
            case.alpha,
            rules,
            calibration="synthetic" if synthetic else [case.calibration],
            effort=effort,
            seed=case.seed,
        )
        totals = result.report.totals
        return result.model, totals.macs_after / totals.macs_before

    return method


def _exact(case: Case) -> tuple[nn.Module, float]:
    result = octify.convert(case.model, torch.zeros(EXAMPLE), case.alpha, RULES, kernels="exact")
    totals = result.report.totals
    return result.model, totals.macs_after / totals.macs_before


def _sliced(case: Case) -> tuple[nn.Module, float]:
    traced = trace(case.model, torch.zeros(EXAMPLE))
    model = rewrite(traced, make_plan(traced, load_rules(RULES), case.alpha)).module
    for path, conv in model.named_modules():
        if isinstance(conv, OctaveConv):
            _slice_kernels(conv, case.model.get_submodule(path))
    return model, _paper_ratio(case)


@torch.no_grad()
def _slice_kernels(conv: OctaveConv, original: nn.Module) -> None:
    weight = original.get_parameter("weight")
    channels = {
        "in": {"low": conv.low_in, "high": [c for c in range(conv.in_channels) if c not in conv.low_in]},
        "out": {"low": conv.low_out, "high": [c for c in range(conv.out_channels) if c not in conv.low_out]},
    }
    for name in conv.recipes:
        source, target = name.split("_to_")
        grouped = Grouped.of(original, channels["in"][source], channels["out"][target])
        (run,) = (run for run in grouped.runs if run.leads)
        getattr(conv, name).weight.copy_(grouped.kernel(weight, run))


def _paper_ratio(case: Case) -> float:
    totals = octify.inspect(case.model, torch.zeros(EXAMPLE), case.alpha, RULES).totals
    return totals.macs_after / totals.macs_before


def _pruned(distilled: bool) -> Callable[[Case], tuple[nn.Module, float]]:
    def method(case: Case) -> tuple[nn.Module, float]:
        example = torch.zeros(EXAMPLE)
        model, ratio = peers.pruned(case.model, example, _paper_ratio(case))
        peers.renormalise(model, case.calibration)
        if distilled:
            peers.distil(model, case.model, case.calibration, case.seed)
        return model, ratio

    return method


METHODS: dict[str, Callable[[Case], tuple[nn.Module, float]]] = {
    "slice": _sliced,
    "exact": _exact,
    "norm": _calibrated("norm"),
    "fast": _calibrated("fast"),
    "standard": _calibrated("standard"),
    "spatial": _calibrated("standard", rules=SPATIAL),
    "one-way": _calibrated("standard", rules=ONE_WAY),
    "synthetic": _calibrated("standard", synthetic=True),
    "pruned": _pruned(distilled=False),
    "thorough": _calibrated("thorough"),
    "pruned + distilled": _pruned(distilled=True),
}
UNSEEDED = ("slice", "exact")  # calibrate on nothing
DEAR = ("thorough", "pruned + distilled")  # take minutes
