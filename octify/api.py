"""The library's functions: each walks the pipeline trace -> plan -> rewrite -> report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from octify import conversion
from octify.artefact.conversion import load
from octify.calibrate.rotate import in_basis
from octify.checks.door import check_model
from octify.conversion import Inputs, Result
from octify.kernels.taps import Scheme
from octify.metric.measure import Baseline
from octify.passes.consistent import leaves_of
from octify.passes.reference import reference as projected_reference
from octify.passes.rewrite import as_model
from octify.plan import Plan
from octify.progress import Tell
from octify.report import Report
from octify.report.build import profile_report
from octify.source.dtype import examples_of
from octify.sweeps.run import SweepResult, sweep
from octify.trace import trace

__all__ = [
    "Result",
    "SweepResult",
    "convert",
    "inspect",
    "load",
    "profile",
    "reference",
    "sweep",
]


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
    progress: Tell | None = None,
    *,
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
    """Convert ``model`` to octave form; the model itself is left untouched.

    Parameters
    ----------
    model:
        A CNN, usually trained. It is traced on a deep copy.
    example_inputs:
        A tensor (N, C, H, W), or a sequence of tensors, on any device; only shapes are used. Arrays of
        numpy are taken as tensors, and float32 ones in the format of the model's parameters if it
        takes no others.
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
        Seed for calibration's random choices; the result is deterministic for a seed.
    target_macs, target_error:
        Target in place of ``alpha``: the largest share of the original's MACs (0 to 1), or the largest
        relative output error on held-out inputs, for which the cheapest model is searched. Every coupled
        set gets its own alpha, or all the same one if that measures better (``octify.allocate.search``);
        ``report.allocation`` records the choice. Requires ``calibration``.
    target_drop:
        Target in place of ``alpha``: the largest drop of ``metric``, in its own unit, for which the cheapest
        model is searched. Requires ``calibration``; every model tried is calibrated with ``effort``.
    target_latency:
        Target in place of ``alpha``: the most milliseconds per call in ``latency_runtime``, for which the
        model of least error is searched. Whole models are timed at the example inputs, with ``latency``
        threads (default 1). Requires ``calibration``.
    latency:
        Number of the runtime's threads at which octave layers must be faster; others stay dense. Times come
        from a table (``octify.latency.operators.table``), whose missing entries are measured first. Then
        whole models are timed beside the original: where none is surely faster, everything stays dense.
        ``report.timing`` has the figures.
    latency_runtime:
        ``"onnxruntime"``, ``"onnxruntime-int8"``, ``"openvino"`` or ``"openvino-int8"``. For int8, operators
        are priced in float, and whole models timed in int8.
    plan:
        A plan, or the path of one, to replay instead of ``alpha``, ``rules``, ``kernels`` and ``exclude``.
    exclude:
        Path patterns of convolutions to leave alone.
    progress:
        Callback that receives the name of every phase as it begins.
    metric:
        Function of a model to a finite float, or to a dict of them, such as accuracy on your own data. It
        gets copies of the original and of the result, in eval mode and on the original's device, without
        gradients; ``report.metric`` has the values and their drop.
    metric_lower:
        Whether smaller values of the metric are better.

    Raises
    ------
    OctifyError
        An untraceable model, inputs it rejects, a rule or pattern that matches nothing, or a plan for
        another model. The message says what, where, why and what to do.
    CheckFailed
        A target that cannot be met; the message names the nearest value that can.
    """
    return conversion.convert(
        model,
        example_inputs,
        alpha=alpha,
        rules=rules,
        kernels=kernels,
        calibration=calibration,
        effort=effort,
        plan=plan,
        exclude=exclude,
        progress=progress,
        channel_order=channel_order,
        seed=seed,
        target_macs=target_macs,
        target_error=target_error,
        target_drop=target_drop,
        target_latency=target_latency,
        latency=latency,
        metric=metric,
        metric_lower=metric_lower,
        latency_runtime=latency_runtime,
    )


def inspect(
    model: nn.Module,
    example_inputs: Inputs,
    alpha: float = 0.5,
    rules: str | Path = "default",
    kernels: Scheme = "paper",
    exclude: Sequence[str] = (),
) -> Report:
    """Report what ``convert`` would do with the same arguments."""
    return convert(model, example_inputs, alpha, rules, kernels, exclude=exclude).report


def profile(model: nn.Module, example_inputs: Inputs) -> Report:
    """Report MACs, parameters and activation bytes of ``model`` as it is, layer by layer."""
    return profile_report(trace(check_model(model), examples_of(model, example_inputs)))


def reference(model: nn.Module, plan: Plan, example_inputs: Inputs) -> nn.Module:
    """Build the projected reference of ``plan``: the original network with 2x2 block means on low channels.

    A conversion with ``kernels="exact"`` equals it to rounding error.
    """
    leaves = leaves_of(plan, check_model(model))
    traced = trace(model, examples_of(model, example_inputs), leaves=leaves, inside=plan.inside)
    return as_model(traced, projected_reference(in_basis(traced, plan), plan), plan)
