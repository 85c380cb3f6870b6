"""The whole calibration of a plan: choose channels, rewrite, reconstruct, distil, measure."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from octify.calibrate.channels.energy import by_energy
from octify.calibrate.channels.greedy import by_greedy
from octify.calibrate.device import require_doubles
from octify.calibrate.distill.distill import distill
from octify.calibrate.distill.judge import Distilled
from octify.calibrate.fit.match import match_norms
from octify.calibrate.fit.repair import LayerError, Repaired, repair
from octify.calibrate.fit.solve import REFITS
from octify.calibrate.inputs.augment import enlarged
from octify.calibrate.inputs.few import joined_by_made
from octify.calibrate.inputs.images import MOST_IMAGES, Images, count_of, gather
from octify.calibrate.inputs.synthetic import synthetic_images
from octify.calibrate.rotate import in_basis, with_rotations
from octify.calibrate.spectrum import by_frequency, spectra
from octify.compare.outputs import Agreement, compare, outputs
from octify.errors import OctifyError
from octify.passes.rewrite import Rewritten, rewrite
from octify.plan import Plan
from octify.progress import Progress
from octify.report.spectrum import SpectrumRow
from octify.trace import Traced

Effort = Literal["norm", "fast", "standard", "thorough"]
ChannelOrder = Literal["last", "energy", "greedy"]
EFFORTS: tuple[Effort, ...] = ("norm", "fast", "standard", "thorough")
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = ("last", "energy", "greedy")
_ORDER_OF: Mapping[str, ChannelOrder] = {
    "norm": "energy",
    "fast": "energy",
    "standard": "greedy",
    "thorough": "greedy",
}
STEPS: Mapping[str, int] = {"standard": 300, "thorough": 900}  # of distillation
SECONDS: Mapping[str, float] = {"standard": 240.0}  # that it may take, of two cores
_STEPS_FACTOR = 2  # times as many steps of ``standard`` where images are made, in which more errors are left


@dataclass(frozen=True)
class Calibrated:
    """A plan with the channels that calibration chose, the repaired model, and how good it is.

    before, after:
        Agreement with the original, uncalibrated (the plan as it came) and calibrated.
    left:
        Converted convolutions that keep their closed-form weights, with reasons.
    spectrum:
        Frequencies of the original's feature maps; None where they were not measured.
    distilled:
        Outcome of the distillation; None where there was none.
    """

    plan: Plan
    rewritten: Rewritten
    effort: str
    channel_order: str
    synthetic: bool
    images: int
    before: Agreement
    after: Agreement
    layers: tuple[LayerError, ...]
    left: Mapping[str, str]
    warnings: tuple[str, ...]
    spectrum: SpectrumRow | None = None
    distilled: Distilled | None = None


def calibrate(
    traced: Traced,
    plan: Plan,
    data: Iterable[Any] | str,
    effort: str = "standard",
    channel_order: str | None = None,
    *,
    most: int = MOST_IMAGES,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Calibrated:
    """Carry out ``plan`` and repair what it costs.

    Parameters
    ----------
    data:
        An iterable of inputs (``gather`` says which), or ``"synthetic"``.
    effort:
        ``"norm"`` (BatchNorm statistics only), ``"fast"`` (least squares, channels by energy),
        ``"standard"`` (channels chosen by the error after refitting, hinge refits, and as much
        distillation as takes minutes) or ``"thorough"`` (the same with more distillation).
    channel_order:
        ``"last"``, ``"energy"`` or ``"greedy"``; by default what the effort says.

    Deterministic for a seed. Raises OctifyError for unusable data.
    """
    order_of(effort, channel_order)
    images = images_of(traced, data, effort, most=most, seed=seed, progress=progress)
    start = rotated(traced, plan, images, effort, channel_order)
    # Now: the repair writes to what is shared with traced.
    measured = spectra(start.traced, start.plan, images.chunks)
    result = calibrate_on(
        traced, plan, images, effort, channel_order, seed=seed, start=start, progress=progress
    )
    synthetic = isinstance(data, str)
    spectrum = by_frequency(start.traced, result.plan, measured, images.user_count, synthetic=synthetic)
    return replace(result, synthetic=synthetic, spectrum=spectrum)


def order_of(effort: str, channel_order: str | None) -> str:
    """The channel order of an effort, unless one is given. Raises OctifyError for words it does not know."""
    if effort not in EFFORTS:
        raise OctifyError(f"there is no effort {effort!r}", hint=f"use one of {', '.join(EFFORTS)}")
    order = channel_order or _ORDER_OF[effort]
    if order not in CHANNEL_ORDERS:
        raise OctifyError(
            f"there is no channel order {order!r}", hint=f"use one of {', '.join(CHANNEL_ORDERS)}"
        )
    return order


@torch.inference_mode(False)  # or distillation could not follow gradients
def calibrate_on(
    traced: Traced,
    plan: Plan,
    images: Images,
    effort: str,
    channel_order: str | None = None,
    *,
    seed: int = 0,
    start: Based | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Calibrated:
    """``calibrate`` on images that were gathered before (``images_of``).

    ``start`` is what ``rotated`` made of ``traced`` and ``plan``, where that is at hand.

    The repair writes to modules that ``traced`` shares with the result: another run needs another copy.
    """
    order = order_of(effort, channel_order)
    measured = images.held_out or images.chunks
    reference = outputs(traced.module, measured)
    held = bool(images.held_out)
    before = compare(
        reference, outputs(rewrite(in_basis(traced, plan), plan).module, measured), held_out=held
    )
    start = start or rotated(traced, plan, images, effort, order)
    plan, traced = start.plan, start.traced
    chosen = _choose(traced, plan, images, order, seed, progress)
    rewritten = rewrite(traced, chosen)
    training = rewritten.module.training
    steps = _steps(images, effort)
    original = copy.deepcopy(traced.module) if steps else traced.module  # before the fits write to it
    repaired = _repair(traced, rewritten, images, effort, seed, progress, keep_fits=steps > 0)
    distilled: Distilled | None = None
    if steps:
        distilled = distill(
            traced,
            original,
            rewritten,
            repaired,
            images,
            reference,
            steps=steps,
            seconds=SECONDS.get(effort, math.inf),
            seed=seed,
            progress=progress,
        )
    rewritten.module.train(training)
    after = compare(reference, outputs(rewritten.module, measured), held_out=held)
    return Calibrated(
        chosen,
        rewritten,
        effort,
        order,
        False,
        images.user_count,
        before,
        after,
        repaired.layers,
        repaired.left,
        images.warnings,
        distilled=distilled,
    )


def images_of(
    traced: Traced,
    data: Iterable[Any] | str,
    effort: str,
    *,
    most: int = MOST_IMAGES,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Images:
    """The calibration inputs that ``data`` (as ``calibrate`` takes it) yields. Raises OctifyError.

    Efforts that distil have minutes to make more where there are few.
    """
    if traced.parts is not None:
        raise OctifyError(
            "a model that is converted in parts cannot be calibrated as a whole",
            why=f"its root {traced.parts.failure.reason}",
            hint="calibrate the part (such as the backbone) as a model of its own, or fine-tune the result",
        )
    device = next((p.device for p in traced.module.parameters()), torch.device("cpu"))
    require_doubles(device)
    if isinstance(data, str):
        if data != "synthetic":
            raise OctifyError(
                f"calibration data {data!r} is not known",
                why='it is an iterable of inputs, or the word "synthetic"',
                hint="octify convert --calib reads folders and files",
            )
        data = synthetic_images(traced, seed=seed, progress=progress)
        images = gather(traced, data, most=most, device=device)
        return replace(images, generated=images.count)
    images = gather(traced, data, most=most, device=device)
    return joined_by_made(traced, images, seed, progress) if effort in STEPS else images


@dataclass(frozen=True)
class Based:
    """A plan in the bases that its low channels lose least in, and the traced model in those bases."""

    plan: Plan
    traced: Traced


def rotated(traced: Traced, plan: Plan, images: Images, effort: str, channel_order: str | None) -> Based:
    """``plan`` and ``traced`` in the best bases, where calibration chooses the channels.

    Efforts that refit nothing keep theirs: a new basis keeps the function, and they are to keep the weights,
    too.
    """
    order = order_of(effort, channel_order)
    keeps = effort == "norm" or order == "last"
    chosen = plan if keeps else with_rotations(traced, plan, images.chunks)
    return Based(chosen, in_basis(traced, chosen))


def _choose(traced: Traced, plan: Plan, images: Images, order: str, seed: int, progress: Progress) -> Plan:
    if order == "energy":
        return by_energy(traced, plan, images.chunks)
    if order == "greedy":
        return by_greedy(traced, plan, images.chunks, seed=seed, progress=progress)
    return plan


def _steps(images: Images, effort: str) -> int:
    """Steps of distillation at most: of ``standard`` none that nothing can judge."""
    steps = STEPS.get(effort, 0)
    if effort != "standard":
        return steps
    if not images.held_out:
        return 0
    return _STEPS_FACTOR * steps if images.generated else steps


def _repair(
    traced: Traced,
    rewritten: Rewritten,
    images: Images,
    effort: str,
    seed: int,
    progress: Progress,
    *,
    keep_fits: bool = False,
) -> Repaired:
    if effort == "norm":
        match_norms(traced, rewritten, images.chunks)
        return Repaired((), {})
    chunks = enlarged(traced, images, seed)
    return repair(
        traced,
        rewritten,
        chunks,
        copies=count_of(chunks) - images.count,
        refits=0 if effort == "fast" else REFITS,
        seed=seed,
        keep_fits=keep_fits,
        progress=progress,
    )
