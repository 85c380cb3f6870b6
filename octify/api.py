"""The library's functions: each walks the pipeline trace -> plan -> rewrite -> report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from octify import conversion
from octify.artefact.conversion import load
from octify.calibrate.rotate import in_basis
from octify.checks.door import check_inputs, check_model
from octify.conversion import Inputs, Progress, Result
from octify.export import ExportResult, export_onnx
from octify.kernels.taps import Scheme
from octify.passes.reference import reference as projected_reference
from octify.passes.rewrite import as_model
from octify.plan import Plan
from octify.report import Report
from octify.report.build import profile_report
from octify.sweeps.run import SweepResult, sweep
from octify.trace import trace

__all__ = [
    "ExportResult",
    "Result",
    "SweepResult",
    "convert",
    "export_onnx",
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
        A tensor (N, C, H, W), or a sequence of tensors, on any device; only shapes are used. Arrays of
        numpy are taken as tensors.
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
        (``octify.allocate.search``); ``report.allocation`` tells. Needs ``calibration``.
    latency:
        Keep dense what would not run faster in onnxruntime with so many threads, by a table of operator
        times (``octify.latency.operators.table``); what it lacks is measured first, on this machine, now.
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
        latency=latency,
    )


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
    return profile_report(trace(check_model(model), check_inputs(example_inputs, model)))


def reference(model: nn.Module, plan: Plan, example_inputs: Inputs) -> nn.Module:
    """The projected reference of ``plan``: the original network with 2x2 block means on low channels.

    A conversion with ``kernels="exact"`` equals it to rounding error.
    """
    traced = trace(check_model(model), check_inputs(example_inputs, model))
    return as_model(traced, projected_reference(in_basis(traced, plan), plan), plan)
