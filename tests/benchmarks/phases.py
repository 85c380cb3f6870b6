"""How long octify's own phases take: ``python -m tests.benchmarks.phases [--runs N] [--threads N]``.

Prints the median seconds of tracing, planning, rewriting and reporting for two real models at 224x224, whose
first three phases should take under 3 s (torchvision resnet50) and 6 s (densenet121) on 2 cores; and the
planner's seconds on chains of 100 to 5 000 convolutions, plain and residual, which should grow near-linearly.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.report.build import build_report
from octify.trace import Traced, trace
from octify.trace.facts import measure

LIMITS = {"resnet50": 3.0, "densenet121": 6.0}  # seconds of tracing, planning and rewriting
PHASES = ("trace", "plan", "rewrite", "report")
LENGTHS = (100, 1000, 5000)
WIDTH, SIDE = 8, 8

T = TypeVar("T")


class Residual(nn.Module):
    """``x + conv(relu(x))``: all blocks of a chain share one coupled set."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.relu(x))


def chain(layers: int, residual: bool = False) -> Traced:
    """A traced chain of ``layers`` 3x3 convolutions."""

    def block() -> nn.Module:
        return Residual() if residual else nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU())

    stem = nn.Conv2d(3, WIDTH, 3, padding=1)
    model = nn.Sequential(stem, *(block() for _ in range(layers - 1)))
    return trace(model, torch.empty(1, 3, SIDE, SIDE))


def planning_seconds(traced: Traced, runs: int) -> float:
    """CPU seconds of the fastest of ``runs`` runs of the planner: the one that was disturbed least."""
    rules = load_rules("everywhere")
    return min(_timed(lambda: make_plan(traced, rules, 0.5), time.process_time)[0] for _ in range(runs))


def phase_seconds(model: nn.Module, side: int = 224) -> dict[str, float]:
    """Seconds of each phase of one conversion with the default rules at alpha .5."""
    x = torch.empty(1, 3, side, side)
    rules = load_rules("default")
    seconds = dict.fromkeys(PHASES, 0.0)
    seconds["trace"], traced = _timed(lambda: trace(model, x))
    seconds["plan"], plan = _timed(lambda: make_plan(traced, rules, 0.5))
    seconds["rewrite"], rewritten = _timed(lambda: rewrite(traced, plan))
    seconds["report"], _ = _timed(
        lambda: build_report(traced, plan, rewritten, measure(rewritten.module, [x]))
    )
    return seconds


def _timed(work: Callable[[], T], clock: Callable[[], float] = time.perf_counter) -> tuple[float, T]:
    start = clock()
    result = work()
    return clock() - start, result


def install_quirk() -> None:
    """Make torchvision importable beside a PyTorch build it was not made for."""
    try:
        import torchvision_quirk
    except ImportError:  # run from the checkout, without the tests' search path
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "quirk"))
        import torchvision_quirk
    torchvision_quirk.install()


def _zoo_model(name: str) -> nn.Module:
    install_quirk()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval()


def _print_phases(runs: int) -> None:
    print(
        f"{'seconds (median)':20}"
        + "".join(f"{head:>12}" for head in (*PHASES, "first three", "limit", "CPU, all"))
    )
    for name, limit in LIMITS.items():
        model = _zoo_model(name)
        phase_seconds(model)  # the first conversion in a process imports and fills caches
        start = time.process_time()
        taken = [phase_seconds(model) for _ in range(runs)]
        cpu = (time.process_time() - start) / runs
        medians = [statistics.median(run[phase] for run in taken) for phase in PHASES]
        total = statistics.median(sum(run[phase] for phase in PHASES[:3]) for run in taken)
        print(f"{name:20}" + "".join(f"{value:12.2f}" for value in (*medians, total, limit, cpu)), flush=True)


def _print_planner(runs: int) -> None:
    print(f"\n{'planner':20}{'layers':>10}{'CPU s':>10}{'us/layer':>10}")
    for residual in (False, True):
        for layers in LENGTHS:
            seconds = planning_seconds(chain(layers, residual), runs)
            kind = "residual chain" if residual else "chain"
            print(f"{kind:20}{layers:10}{seconds:10.3f}{1e6 * seconds / layers:10.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.phases", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.runs} runs\n")
    _print_phases(options.runs)
    _print_planner(min(options.runs, 3))


if __name__ == "__main__":
    main()
