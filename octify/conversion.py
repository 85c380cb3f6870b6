"""The conversion pipeline: a traced model and a plan to a converted model and its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from octify.allocate.drop import convert_within
from octify.allocate.plans import Plans
from octify.allocate.search import convert_to
from octify.allocate.timed import Stopwatch, convert_in_time
from octify.artefact.files import PLAN, REPORT, WEIGHTS, weights_of
from octify.calibrate.inputs.synthetic import NO_IMAGES, can_be_made
from octify.calibrate.options import Calibration, Target
from octify.calibrate.recipe import Calibrated, calibrate, images_of, uncalibrated
from octify.calibrate.rotate import in_basis
from octify.calibrate.spectrum import by_frequency, spectra
from octify.checks.alpha import check_alpha
from octify.checks.door import check_model
from octify.errors import OctifyError
from octify.files import staged_directory
from octify.kernels.taps import Scheme
from octify.latency.verdict import PlanTiming, TimingSettings
from octify.metric.measure import Baseline, baseline_of
from octify.passes.consistent import leaves_of
from octify.passes.resolve import Planned
from octify.passes.rewrite import Rewritten, as_model, rewrite
from octify.plan import Plan
from octify.plan.rotation import Rotation
from octify.planning.planner import planned
from octify.planning.ruleset import load_rules
from octify.progress import Tell, counting
from octify.report import Report
from octify.report.build import UNCALIBRATED, build_report
from octify.report.calibration import CalibrationRow, RotationRow
from octify.source.dtype import examples_of
from octify.trace import Traced
from octify.trace.parts import measure_nodes
from octify.trace.proof import proved

Inputs = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Result:
    """A converted model.

    model:
        An ordinary ``nn.Module`` in the original's training mode: a GraphModule, or, where the
        original cannot be traced as a whole, a copy of it with converted parts.
    plan:
        The plan, which can be replayed on the same model.
    report:
        Savings, convolutions left dense, and the reasons.
    """

    model: nn.Module
    plan: Plan
    report: Report

    def save(self, directory: str | Path) -> None:
        """Write plan.json, weights.safetensors and report.json into ``directory``, all or none."""
        with staged_directory(Path(directory)) as staged:
            self.plan.save(staged / PLAN)
            (staged / WEIGHTS).write_bytes(weights_of(self.model))
            report = json.dumps(self.report.to_dict(), indent=1) + "\n"
            (staged / REPORT).write_text(report, encoding="utf-8")


def convert(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    alpha: float = 0.5,
    rules: str | Path = "default",
    kernels: Scheme = "paper",
    calibration: Iterable[Any] | str | None = None,
    effort: str = "standard",
    plan: Plan | str | Path | None = None,
    exclude: Sequence[str] = (),
    progress: Tell | None = None,
    channel_order: str | None = None,
    seed: int = 0,
    target_macs: float | None = None,
    target_error: float | None = None,
    target_drop: float | None = None,
    target_latency: float | None = None,
    latency: int | None = None,
    metric: Callable[[nn.Module], Any] | Baseline | None = None,
    metric_lower: bool = False,
    latency_runtime: str = "onnxruntime",
) -> Result:
    """``octify.convert``, which documents the arguments.

    ``metric`` is also taken with its values of the original, where these are at hand.
    """
    if kernels not in ("paper", "exact"):
        raise OctifyError(f"there are no {kernels!r} kernels", hint="use 'paper' or 'exact'")
    check_model(model)
    example_inputs = examples_of(model, example_inputs)
    alpha = check_alpha(alpha) if plan is None else alpha
    target = Target.of(target_macs, target_error, target_drop, target_latency)
    if target is not None and (calibration is None or plan is not None):
        raise OctifyError(
            f"a target for the {target.name} needs calibration and no plan",
            why="alphas are chosen by errors that are measured on data; a plan has chosen already",
            hint='give calibration inputs, or the word "synthetic", and leave out the plan',
        )
    if target is not None and target.kind == "drop" and metric is None:
        raise OctifyError("a target for the drop needs a metric", hint="give metric, a function of the model")
    timed_target = target is not None and target.kind == "latency"
    if latency is not None and not timed_target and (target is not None or plan is not None):
        raise OctifyError(
            "latency cannot be combined with a target or a plan",
            why="a target chooses alphas by MACs and errors; a plan has chosen already",
            hint="leave one of them out",
        )
    timing = TimingSettings(latency_runtime, latency or 1) if latency is not None or timed_target else None
    if timing is not None:
        _require_runtime(timing)
    options = (
        calibration if calibration is None else Calibration(calibration, effort, channel_order, seed, target)
    )
    tell = progress or _silent
    policy = None if plan is not None else load_rules(rules)
    replayed = plan if plan is None or isinstance(plan, Plan) else Plan.load(plan)
    tell("tracing")
    leaves = {} if replayed is None else leaves_of(replayed, model)
    inside = replayed is None or replayed.inside
    traced = proved(model, example_inputs, leaves=leaves, inside=inside)
    if traced.parts is not None and options is not None:
        failure = traced.parts.failure
        raise OctifyError(
            f"{failure.kind} cannot be calibrated",
            where=failure.where,
            why=f"it is converted in parts, because it {failure.reason}; calibration needs one graph",
            hint="calibrate its backbone as a model of its own, or fine-tune the converted model",
        )
    baseline = None
    if metric is not None:
        tell("measuring the metric of the original")
        baseline = baseline_of(metric, model, lower=metric_lower)
    tell("planning")
    if target is not None and policy is not None and options is not None:
        return with_metric(
            _to_target(
                Plans(traced, policy, kernels, exclude), options, baseline, timing, example_inputs, tell
            ),
            baseline,
            tell,
        )
    blind = policy is not None and options is not None and options.synthetic and not can_be_made(traced)
    kernels = "exact" if blind else kernels
    verdict = None
    if policy is not None and timing is not None:
        by = partial(planned, traced, policy, alpha, kernels, exclude)
        timing = replace(timing, kernels=kernels)
        chosen, verdict = _fast_plan(traced, model, example_inputs, by, timing, tell)
        if not any(conv.converted for conv in chosen.plan.convs):
            return with_metric(_timed(_apply(traced, chosen, tell), verdict), baseline, tell)
    elif policy is not None:
        chosen = planned(traced, policy, alpha, kernels, exclude)
    else:
        assert replayed is not None
        chosen = Planned(replayed)
    if blind:
        result = _exact(traced, chosen, tell)
    elif options is None:
        result = _apply(traced, chosen, tell)
    else:
        result = _calibrated(traced, calibrate(traced, chosen, options, progress=counting(tell)), tell)
    return with_metric(_timed(result, verdict), baseline, tell)


def with_metric(result: Result, baseline: Baseline | None, tell: Tell) -> Result:
    """Copy of ``result`` with the metric in its report, measured now unless a search did."""
    if baseline is None or result.report.metric is not None:
        return result
    tell("measuring the metric of the converted model")
    return replace(result, report=replace(result.report, metric=baseline.compare(result.model)))


def _require_runtime(timing: TimingSettings) -> None:
    from octify.latency.bench import require_runtimes  # with onnxruntime, which takes a while to import

    timing.check()
    require_runtimes((timing.runtime,))


def _fast_plan(
    traced: Traced,
    model: nn.Module,
    inputs: Sequence[Tensor],
    by: Callable[..., Planned],
    timing: TimingSettings,
    tell: Tell,
) -> tuple[Planned, PlanTiming | None]:
    """The plan that is fastest, and its time beside that of ``model``."""
    from octify.latency.operators.choice import fastest

    def build(chosen: Planned) -> nn.Module:
        return as_model(traced, rewrite(traced, chosen.plan, chosen.resolved).module, chosen.plan)

    return fastest(model, inputs, lambda costs: by(costs=costs), build, timing, tell)


def _timed(result: Result, verdict: PlanTiming | None) -> Result:
    return replace(result, report=replace(result.report, timing=verdict))


def _exact(traced: Traced, chosen: Planned, tell: Tell) -> Result:
    """The conversion that errs least without calibration."""
    result = _apply(traced, chosen, tell)
    warnings = (NO_IMAGES, *result.report.warnings)
    return replace(result, report=replace(result.report, warnings=warnings))


def _calibrated(traced: Traced, calibrated: Calibrated, tell: Tell) -> Result:
    tell("reporting")
    report = _report(traced, calibrated.plan, calibrated.rewritten)
    return Result(calibrated.rewritten.module, calibrated.plan, with_calibration(report, calibrated))


def _to_target(
    plans: Plans,
    options: Calibration,
    baseline: Baseline | None,
    timing: TimingSettings | None,
    inputs: Sequence[Tensor],
    tell: Tell,
) -> Result:
    progress = counting(tell)
    images = images_of(plans.traced, options, progress=progress)
    if options.target is not None and options.target.kind == "drop" and baseline is not None:
        selected, allocation = convert_within(plans, images, options, baseline, progress=progress)
    elif timing is not None:
        clock = Stopwatch(plans, inputs, timing, tell)
        selected, allocation = convert_in_time(plans, images, options, clock, progress=progress)
    else:
        selected, allocation = convert_to(plans, images, options, progress=progress)
    based, layout = in_basis(plans.traced, selected.plan), selected.rewritten.resolved
    curves, final = spectra(based, layout, images.chunks), Planned(selected.plan, layout)
    spectrum = by_frequency(based, final, curves, images.user_count, synthetic=options.synthetic)
    before = uncalibrated(plans.traced, Planned(selected.origin), images)
    result = _calibrated(plans.traced, replace(selected, before=before, spectrum=spectrum), tell)
    return replace(result, report=replace(result.report, allocation=allocation))


def _silent(phase: str) -> None:
    """The default progress: none."""


def _apply(traced: Traced, chosen: Planned, tell: Tell) -> Result:
    plan = chosen.plan
    tell("rewriting")
    rewritten = rewrite(in_basis(traced, plan), plan, chosen.resolved)
    tell("reporting")
    report = _report(traced, plan, rewritten)
    return Result(as_model(traced, rewritten.module, plan), plan, report)


def _report(traced: Traced, plan: Plan, rewritten: Rewritten) -> Report:
    return build_report(traced, plan, rewritten, measure_nodes(traced, rewritten.module))


def with_calibration(report: Report, calibrated: Calibrated) -> Report:
    """Copy of ``report`` with the calibration's figures and warnings, without the one about its absence."""
    assert calibrated.before is not None
    row = CalibrationRow(
        calibrated.effort,
        calibrated.channel_order,
        calibrated.synthetic,
        calibrated.images,
        calibrated.after.inputs,
        calibrated.after.held_out,
        calibrated.before.error,
        calibrated.after.error,
        calibrated.layers,
        tuple(sorted(calibrated.left.items())),
        None if calibrated.distilled is None else calibrated.distilled.sentence(),
        tuple(_rotation(rotation) for rotation in calibrated.plan.rotations),
    )
    warnings = tuple(w for w in report.warnings if w != UNCALIBRATED)
    merged = (*warnings, *calibrated.warnings)
    return replace(
        report, calibration=row, warnings=merged, spectrum=calibrated.spectrum, metric=calibrated.metric
    )


def _rotation(rotation: Rotation) -> RotationRow:
    writers = tuple(writer.path for writer in rotation.writers)
    return RotationRow(writers, rotation.channels, rotation.low, rotation.lost_before, rotation.lost)
