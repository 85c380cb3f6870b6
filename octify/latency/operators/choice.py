"""A plan by measured time: operators are priced one by one, then whole models are timed.

Prices leave out what operators do to each other (layouts, caches, fusion), so that a plan that saves time by
them may not save any. The plans that save at least a few shares of the time of the layers concerned are
timed whole, beside the original, in the runtime asked for. The fastest is taken if it is surely faster.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from octify.export.calls import as_inputs
from octify.latency.bench import bench
from octify.latency.operators.costs import NOISE, OnnxruntimeCosts
from octify.latency.operators.table import OperatorTable
from octify.latency.verdict import PlanTiming, TimingSettings
from octify.passes.resolve import Planned
from octify.plan import Plan
from octify.planning.costs import Costs
from octify.progress import Tell

SAVINGS = (NOISE, 0.1, 0.3)  # least shares of the layers' time that octave channels must save


def fastest(
    original: nn.Module,
    inputs: Sequence[Tensor],
    plan_by: Callable[[Costs], Planned],
    build: Callable[[Planned], nn.Module],
    timing: TimingSettings,
    tell: Tell,
) -> tuple[Planned, PlanTiming | None]:
    """The fastest of the plans that ``plan_by`` makes, or one that leaves everything dense.

    Parameters
    ----------
    plan_by:
        Function of costs that returns the plan which lowers them.
    build:
        Function that returns the converted model of a plan; weights do not matter.

    Returns
    -------
    The plan, and the times of whole models; None where the prices alone leave everything dense.

    Raises
    ------
    ExportError
        The model cannot be written as the ONNX file that would be timed.
    """
    table = OperatorTable(timing.threads, progress=tell, runtime=timing.library)
    plans = [plan_by(OnnxruntimeCosts(table, timing.kernels, saving)) for saving in SAVINGS]
    table.save()
    rivals = _different(plans)
    if not rivals:
        return plans[0], None
    models = {"dense": original} | {name: build(plan) for name, plan in rivals.items()}
    measured = bench(
        {name: copy.deepcopy(model).cpu().float().eval() for name, model in models.items()},
        as_inputs(inputs),
        runtimes=[timing.runtime],
        threads=timing.threads,
        memory=False,
        progress=tell,
    )
    dense, *rows = measured.rows
    best = min(rows, key=lambda row: row.timing.median)
    ratio = best.timing.ratio
    verdict = PlanTiming(
        timing.runtime,
        timing.threads,
        best.batch,
        best.timing.rounds,
        len(rows),
        dense.timing.median,
        best.timing.median,
        ratio.value,
        ratio.low,
        ratio.high,
        ratio.low > 1,
    )
    chosen = rivals[best.model]
    return (chosen if verdict.kept else Planned(all_dense(chosen.plan, verdict.reason))), verdict


def _different(plans: Sequence[Planned]) -> Mapping[str, Planned]:
    """Plans that convert something, each once: those that differ in their low channels."""
    by_shape: dict[tuple[object, ...], Planned] = {}
    for planned in plans:
        shape = tuple((c.path, c.low_in, c.low_out, c.exchange) for c in planned.plan.convs if c.converted)
        if shape:
            by_shape.setdefault(shape, planned)
    return {f"plan {i + 1}": planned for i, planned in enumerate(by_shape.values())}


def all_dense(plan: Plan, reason: str) -> Plan:
    """``plan`` with every convolution dense: for its own reason if it was, else for ``reason``."""
    return replace(
        plan,
        convs=tuple(
            replace(conv, low_in=(), low_out=(), exchange="full", reason=reason) if conv.converted else conv
            for conv in plan.convs
        ),
    )
