"""What is compared: ``METHODS[name](case)`` makes a cheaper network of a trained one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

import octify
from tests.benchmarks.real.networks import NETWORKS, Network


@dataclass(frozen=True)
class Case:
    """A network, a share of low channels, and how many crops it is calibrated on."""

    net: str
    alpha: float
    images: int
    seed: int = 0

    @property
    def network(self) -> Network:
        return NETWORKS[self.net]

    @cached_property
    def model(self) -> nn.Module:
        return self.network.build()

    @cached_property
    def calibration(self) -> Tensor:
        return self.network.crops("calibration", self.images, self.seed)[0]

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, 3, self.network.size, self.network.size)

    @cached_property
    def macs_share(self) -> float:
        """The MACs of the conversion over the original's."""
        totals = octify.inspect(self.model, self.example, self.alpha).totals
        return float(totals.macs_after / totals.macs_before)


@dataclass(frozen=True)
class Made:
    """A cheaper network: its MACs over the original's, and the CPU seconds that making it took."""

    model: nn.Module
    macs_ratio: float
    seconds: float


def make(method: str, case: Case) -> Made:
    """``method``: a key of `METHODS`."""
    torch.manual_seed(case.seed)
    _ = case.model, case.calibration, case.macs_share  # not timed
    start = time.process_time()
    model, ratio = METHODS[method](case)
    return Made(model.eval(), ratio, time.process_time() - start)


Method = Callable[[Case], tuple[nn.Module, float]]


def _converted(case: Case, **settings: object) -> tuple[nn.Module, float]:
    result = octify.convert(case.model, case.example, case.alpha, seed=case.seed, **settings)  # type: ignore[arg-type]
    totals = result.report.totals
    return result.model, totals.macs_after / totals.macs_before


def _calibrated(effort: str) -> Method:
    return lambda case: _converted(case, calibration=[case.calibration], effort=effort)


def _allocated(effort: str) -> Method:
    """The MACs of the conversion at one alpha, with alpha chosen for each coupled set."""

    def method(case: Case) -> tuple[nn.Module, float]:
        result = octify.convert(
            case.model,
            case.example,
            target_macs=case.macs_share,
            calibration=[case.calibration],
            effort=effort,  # type: ignore[arg-type]
            seed=case.seed,
        )
        totals = result.report.totals
        return result.model, totals.macs_after / totals.macs_before

    return method


METHODS: dict[str, Method] = {
    "uncalibrated": lambda case: _converted(case),
    "norm": _calibrated("norm"),
    "fast": _calibrated("fast"),
    "standard": _calibrated("standard"),
    "thorough": _calibrated("thorough"),
    "fast, target": _allocated("fast"),
    "standard, target": _allocated("standard"),
    "fast, rules fast": lambda case: _converted(
        case, calibration=[case.calibration], effort="fast", rules="fast"
    ),
    "fast, rules int8": lambda case: _converted(
        case, calibration=[case.calibration], effort="fast", rules="int8"
    ),
    "synthetic": lambda case: _converted(case, calibration="synthetic", effort="standard"),
}


def _peer(name: str) -> Method:
    def method(case: Case) -> tuple[nn.Module, float]:
        from tests.benchmarks.real import peers

        made: tuple[nn.Module, float] = getattr(peers, name)(case.model, case.calibration, case.macs_share)
        return made

    return method


METHODS |= {
    "pruned": _peer("pruned"),
    "pruned inside, refitted": _peer("pruned_inside"),
    "low rank, refitted": _peer("low_rank"),
}
