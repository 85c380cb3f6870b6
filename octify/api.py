"""The library's functions: each walks the pipeline trace -> plan -> rewrite -> report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import Tensor, fx, nn

from octify.calibrate.allocate_plans import Plans
from octify.calibrate.allocate_search import convert_to
from octify.calibrate.allocate_target import Target
from octify.calibrate.recipe import Calibrated, calibrate, images_of, order_of
from octify.calibrate.spectrum import by_frequency, spectra
from octify.calibrate.synthetic import NO_IMAGES, can_be_made
from octify.errors import OctifyError, PlanError, SourceError
from octify.export import ExportResult, export_onnx
from octify.files import staged_directory
from octify.kernels import Scheme
from octify.plan.model import Plan
from octify.plan.planner import make_plan
from octify.projection import reference as projected_reference
from octify.report import Report
from octify.report.build import build_report, profile_report
from octify.report.calibrated import with_allocation, with_calibration
from octify.rewrite import Rewritten, rewrite
from octify.rotate import in_basis
from octify.ruleset import RuleSet, load_rules
from octify.trace import Traced, trace
from octify.trace.parts import assemble, measure_nodes

__all__ = ["ExportResult", "Result", "convert", "export_onnx", "inspect", "load", "profile", "reference"]

Inputs = Tensor | Sequence[Tensor]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """A converted model.

    model:
        An ordinary ``nn.Module`` in the original's training mode: a GraphModule, or, where the
        original cannot be traced as a whole, a copy of it with converted parts.
    plan:
        What was done; replayable on the same model.
    report:
        What it won, what it left and why.
    """

    model: nn.Module
    plan: Plan
    report: Report

    def save(self, directory: str | Path) -> None:
        """Write plan.json, weights.safetensors and report.json into ``directory``, all or none."""
        # A copy of each tensor: safetensors refuses tensors that share memory.
        tensors = {name: t.detach().contiguous().clone() for name, t in self.model.state_dict().items()}
        with staged_directory(Path(directory)) as staged:
            self.plan.save(staged / "plan.json")
            (staged / "weights.safetensors").write_bytes(as_safetensors(tensors))
            report = json.dumps(self.report.to_dict(), indent=1) + "\n"
            (staged / "report.json").write_text(report, encoding="utf-8")


def convert(
    model: nn.Module,
    example_inputs: Inputs,
    alpha: float = 0.5,
    rules: str | Path = "default",
    kernels: Scheme = "paper",
    calibration: Iterable[Any] | str | None = None,
    effort: str = "standard",
    plan: Plan | str | Path | None = None,
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
    *,
    channel_order: str | None = None,
    seed: int = 0,
    target_macs: float | None = None,
    target_error: float | None = None,
    latency: int | None = None,
) -> Result:
    """Convert ``model`` to octave form; the model itself is left untouched.

    Parameters
    ----------
    model:
        A CNN, usually trained. It is traced on a deep copy.
    example_inputs:
        A tensor (N, C, H, W), or a sequence of tensors, on any device; only shapes are used.
    alpha:
        Share of low-frequency channels, 0 to 1.
    rules:
        ``"default"``, ``"paper"``, ``"everywhere"``, or the path of a rule file.
    kernels:
        ``"paper"`` (cheapest) or ``"exact"`` (equal to ``octify.reference``).
    calibration:
        Inputs without labels to repair the converted model with: an iterable of batches (N, C, H, W)
        or single inputs (C, H, W), tuples for several inputs (labels behind them are ignored), at
        most 512 are used; or ``"synthetic"``, images made from the network's own BatchNorm
        statistics (without such statistics: no calibration but exact kernels, and a warning in the
        report). None leaves the weights as the mathematics gives them.
    effort:
        ``"norm"`` (BatchNorm statistics only), ``"fast"`` (least squares), ``"standard"`` (also better
        channels and minutes of distillation) or ``"thorough"`` (more distillation).
    channel_order:
        Which channels are low: ``"last"``, ``"energy"`` or ``"greedy"``; by default what the effort says.
    seed:
        Of calibration's random choices; the result is the same for the same seed.
    target_macs, target_error:
        In place of ``alpha``: at most so much of the original's MACs (0 to 1), or the cheapest model of at
        most so large a relative output error on inputs that calibration does not use. Every coupled
        set gets its own alpha by what it costs, or all the same if that measures better
        (``octify.calibrate.allocate_search``); ``report.allocation`` tells. Needs ``calibration``.
    latency:
        Keep dense what would not run faster in onnxruntime with so many threads, by a table of operator
        times (``octify.latency.table``); what it lacks is measured first, on this machine, now.
    plan:
        A plan, or the path of one, to replay instead of ``alpha``, ``rules``, ``kernels`` and ``exclude``.
    exclude:
        Path patterns of convolutions to leave alone.
    progress:
        Called with the name of every phase as it begins.

    Raises
    ------
    OctifyError
        With what, where, why and what to do: an untraceable model, inputs it rejects, a rule or
        pattern that matches nothing, a plan for another model.
    CheckFailed
        A target that cannot be met, with what can be reached.
    """
    if kernels not in ("paper", "exact"):
        raise OctifyError(f"there are no {kernels!r} kernels", hint="use 'paper' or 'exact'")
    target = Target.of(target_macs, target_error)
    if target is not None and (calibration is None or plan is not None):
        raise OctifyError(
            f"a target for the {'MACs' if target.kind == 'macs' else 'error'} needs calibration and no plan",
            why="alphas are chosen by errors that are measured on data; a plan has chosen already",
            hint='give calibration inputs, or the word "synthetic", and leave out the plan',
        )
    if latency is not None and (target is not None or plan is not None):
        raise OctifyError(
            "latency cannot be combined with a target or a plan",
            why="a target chooses alphas by MACs and errors; a plan has chosen already",
            hint="leave one of them out",
        )
    tell = progress or _silent
    policy = None if plan is not None else load_rules(rules)
    tell("tracing")
    traced = trace(model, example_inputs)
    if traced.parts is not None and calibration is not None:
        failure = traced.parts.failure
        raise OctifyError(
            f"{failure.kind} cannot be calibrated",
            where=failure.where,
            why=f"it is converted in parts, because it {failure.reason}; calibration needs one graph",
            hint="calibrate its backbone as a model of its own, or fine-tune the converted model",
        )
    tell("planning")
    if target is not None and policy is not None and calibration is not None:
        plans = Plans(traced, policy, kernels, exclude)
        return _to_target(target, plans, calibration, effort, channel_order, seed, tell)
    blind = policy is not None and calibration is not None and _nothing_to_go_by(traced, calibration)
    kernels = "exact" if blind else kernels
    if policy is not None and latency is not None:
        chosen = _fast_plan(traced, policy, alpha, kernels, exclude, latency, tell)
    elif policy is not None:
        chosen = make_plan(traced, policy, alpha, kernels, exclude)
    else:
        chosen = plan if isinstance(plan, Plan) else Plan.load(plan)  # type: ignore[arg-type]
    if blind:
        return _exact(traced, chosen, tell)
    if calibration is None:
        return _apply(traced, chosen, tell)
    calibrated = calibrate(
        traced, chosen, calibration, effort, channel_order, seed=seed, progress=_counting(tell)
    )
    return _calibrated(traced, calibrated, tell)


def _fast_plan(
    traced: Traced,
    rules: RuleSet,
    alpha: float,
    kernels: Scheme,
    exclude: Sequence[str],
    threads: int,
    tell: Progress,
) -> Plan:
    from octify.latency.costs import OnnxruntimeCosts  # with onnxruntime, which takes a while to import
    from octify.latency.table import Table

    table = Table(threads, progress=tell)
    plan = make_plan(traced, rules, alpha, kernels, exclude, costs=OnnxruntimeCosts(table, kernels))
    table.save()
    return plan


def _nothing_to_go_by(traced: Traced, calibration: Iterable[Any] | str) -> bool:
    return isinstance(calibration, str) and calibration == "synthetic" and not can_be_made(traced)


def _exact(traced: Traced, plan: Plan, tell: Progress) -> Result:
    """The conversion that errs least without calibration."""
    result = _apply(traced, plan, tell)
    warnings = (NO_IMAGES, *result.report.warnings)
    return replace(result, report=replace(result.report, warnings=warnings))


def _calibrated(traced: Traced, calibrated: Calibrated, tell: Progress) -> Result:
    tell("reporting")
    report = _report(traced, calibrated.plan, calibrated.rewritten)
    return Result(calibrated.rewritten.module, calibrated.plan, with_calibration(report, calibrated))


def _to_target(
    target: Target,
    plans: Plans,
    calibration: Iterable[Any] | str,
    effort: str,
    channel_order: str | None,
    seed: int,
    tell: Progress,
) -> Result:
    order_of(effort, channel_order)
    progress = _counting(tell)
    images = images_of(plans.traced, calibration, effort, seed=seed, progress=progress)
    made, allocation = convert_to(target, plans, images, effort, channel_order, seed=seed, progress=progress)
    synthetic, inputs = isinstance(calibration, str), images.given
    based = in_basis(plans.traced, made.plan)
    measured = spectra(based, made.plan, images.chunks)
    spectrum = by_frequency(based, made.plan, measured, inputs, synthetic=synthetic)
    result = _calibrated(plans.traced, replace(made, synthetic=synthetic, spectrum=spectrum), tell)
    return replace(result, report=with_allocation(result.report, allocation))


def _counting(tell: Progress) -> Callable[[str, int, int], None]:
    """Progress with the share of a stage's work that is done and the time left to its end, judged from it."""
    start = 0.0

    def count(what: str, done: int, of: int) -> None:
        nonlocal start
        now = time.perf_counter()
        if not done:  # a stage begins
            start = now
        left = f", about {(now - start) / done * (of - done):.0f} s left" if done else ""
        tell(f"calibrating: {what} ({100 * done // of} %{left})")

    return count


def _silent(phase: str) -> None:
    """The default progress: none."""


def _apply(traced: Traced, plan: Plan, tell: Progress) -> Result:
    tell("rewriting")
    rewritten = rewrite(in_basis(traced, plan), plan)
    tell("reporting")
    report = _report(traced, plan, rewritten)
    return Result(_whole(traced, rewritten.module, plan), plan, report)


def _report(traced: Traced, plan: Plan, rewritten: Rewritten) -> Report:
    return build_report(traced, plan, rewritten, measure_nodes(traced, rewritten.module))


def _whole(traced: Traced, module: fx.GraphModule, plan: Plan) -> nn.Module:
    """What ``module``, made from the traced graph, is to the user: itself, or parts to be put in place."""
    converted = frozenset(conv.path for conv in plan.convs if conv.converted)
    return module if traced.parts is None else assemble(traced, module, converted)


def inspect(
    model: nn.Module,
    example_inputs: Inputs,
    alpha: float = 0.5,
    rules: str | Path = "default",
    kernels: Scheme = "paper",
    exclude: Sequence[str] = (),
) -> Report:
    """What ``convert`` with the same arguments would do, as a report."""
    return convert(model, example_inputs, alpha, rules, kernels, exclude=exclude).report


def profile(model: nn.Module, example_inputs: Inputs) -> Report:
    """MACs, parameters and activation bytes of ``model`` as it is, layer by layer."""
    return profile_report(trace(model, example_inputs))


def reference(model: nn.Module, plan: Plan, example_inputs: Inputs) -> nn.Module:
    """The projected reference of ``plan``: the original network with 2x2 block means on low channels.

    A conversion with ``kernels="exact"`` equals it to rounding error.
    """
    traced = trace(model, example_inputs)
    return _whole(traced, projected_reference(in_basis(traced, plan), plan), plan)


def load(directory: str | Path, model: nn.Module) -> nn.Module:
    """The converted model saved in ``directory``.

    Parameters
    ----------
    directory:
        Where ``Result.save`` wrote.
    model:
        The original model (its factory's output; its weights do not matter).

    Raises
    ------
    PlanError
        The plan is missing, or was made for another model.
    SourceError
        The weights are missing or do not fit.
    """
    folder = Path(directory)
    plan = Plan.load(folder / "plan.json")
    traced = trace(model, [spec.example() for spec in plan.inputs])
    converted = _whole(traced, rewrite(traced, plan).module, plan)
    weights = folder / "weights.safetensors"
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise SourceError("the weights cannot be read", where=str(weights), why=str(error)) from None
    _take_biases(converted, state)
    try:
        converted.load_state_dict(state)
    except RuntimeError as error:
        raise PlanError("the weights do not fit the model", where=str(weights), why=str(error)) from None
    return converted


def _take_biases(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give convolutions the biases that calibration added to them."""
    own = module.state_dict()
    for name, value in state.items():
        path, _, kind = name.rpartition(".")
        if kind != "bias" or name in own or f"{path}.weight" not in own:
            continue
        owner = module.get_submodule(path)
        if getattr(owner, "bias", value) is None:
            weight = owner.get_parameter("weight")
            owner.bias = nn.Parameter(torch.empty_like(value), requires_grad=weight.requires_grad)
