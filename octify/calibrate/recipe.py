"""The whole calibration of a plan: choose channels, rewrite, reconstruct, distil, measure."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from octify.calibrate.channels.energy import by_energy
from octify.calibrate.channels.greedy import by_greedy
from octify.calibrate.device import require_doubles
from octify.calibrate.distill.distill import distill
from octify.calibrate.distill.judge import Distilled
from octify.calibrate.fit.match import match_norms
from octify.calibrate.fit.repair import ROWS, Repaired, repair
from octify.calibrate.fit.solve import REFITS
from octify.calibrate.inputs.augment import enlarged
from octify.calibrate.inputs.few import joined_by_made
from octify.calibrate.inputs.images import MOST_IMAGES, Images, count_of, gather
from octify.calibrate.inputs.synthetic import synthetic_images
from octify.calibrate.options import Calibration
from octify.calibrate.prefix import Prefix
from octify.calibrate.rotate import in_basis, rotate, with_rotations
from octify.calibrate.spectrum import by_frequency, spectra
from octify.compare.agreement import Agreement
from octify.compare.outputs import Output, compare, outputs
from octify.errors import OctifyError
from octify.passes.resolve import Planned
from octify.passes.rewrite import Rewritten, rewrite
from octify.plan import Plan
from octify.progress import Progress
from octify.report.calibration import BranchError
from octify.report.metric import MetricRow
from octify.report.spectrum import SpectrumRow
from octify.trace import Traced

STEPS: Mapping[str, int] = {"standard": 300, "thorough": 900}  # of distillation
SECONDS: Mapping[str, float] = {"standard": 240.0}  # that it may take, of two cores
_STEPS_FACTOR = 2  # times as many steps of ``standard`` where images are made, in which more errors are left


@dataclass(frozen=True)
class Calibrated:
    """A plan with the channels that calibration chose, the repaired model, and how good it is.

    origin:
        The plan as it came.
    before, after:
        Agreement with the original, uncalibrated (``origin``; None where it was not measured) and calibrated.
    left:
        Converted convolutions that keep their closed-form weights, with reasons.
    spectrum:
        Frequencies of the original's feature maps; None where they were not measured.
    distilled:
        Outcome of the distillation; None where there was none.
    metric:
        The user's metric, where a search for its drop measured it.
    """

    plan: Plan
    rewritten: Rewritten
    effort: str
    channel_order: str
    synthetic: bool
    images: int
    origin: Plan
    after: Agreement
    layers: tuple[BranchError, ...]
    left: Mapping[str, str]
    warnings: tuple[str, ...]
    before: Agreement | None = None
    spectrum: SpectrumRow | None = None
    distilled: Distilled | None = None
    metric: MetricRow | None = None


@torch.inference_mode(False)  # or distillation could not follow gradients
def calibrate(
    traced: Traced,
    planned: Planned,
    options: Calibration,
    *,
    most: int = MOST_IMAGES,
    progress: Progress = lambda what, done, of: None,
) -> Calibrated:
    """Carry out a plan on ``traced`` and repair what it costs.

    ``most`` inputs are used at most. Deterministic for a seed. Raises OctifyError for unusable data.
    """
    images = images_of(traced, options, most=most, progress=progress)
    return calibrate_on(traced, planned, images, options, described=True, progress=progress)


def uncalibrated(
    traced: Traced, planned: Planned, images: Images, target: Sequence[Output] | None = None
) -> Agreement:
    """Agreement of the conversion without calibration, on the inputs that ``calibrate_on`` measures on.

    ``target``: the original's ``outputs`` on these inputs, where they are at hand.
    """
    inputs = images.held_out or images.chunks
    module = rewrite(in_basis(traced, planned.plan), planned.plan, planned.resolved).module
    target = target or outputs(traced.module, inputs)
    return compare(target, outputs(module, inputs), held_out=bool(images.held_out))


@torch.inference_mode(False)
def calibrate_on(
    traced: Traced,
    planned: Planned,
    images: Images,
    options: Calibration,
    *,
    described: bool = False,
    prefix: Prefix | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Calibrated:
    """``calibrate`` on images that were gathered before (``images_of``).

    ``described``: measure what a report says beside the result, the uncalibrated error and the spectra.
    ``prefix``: values of the original on these images, for these options.

    The repair writes to modules that ``traced`` shares with the result: another run needs another copy.
    """
    measured, held = images.held_out or images.chunks, bool(images.held_out)
    target = prefix.target if prefix is not None else outputs(traced.module, measured)
    planned = Planned(planned.plan, planned.on(traced))
    before = uncalibrated(traced, planned, images, target) if described else None
    start = in_best_basis(traced, planned, images, options, prefix)
    teacher = start.teacher
    curves = spectra(teacher, start.planned.on(teacher), images.chunks) if described else {}
    chosen = choose_channels(start, images, options, progress, prefix)
    rewritten = rewrite(start.traced, chosen.plan, chosen.resolved)
    training = rewritten.module.training
    repaired = repair_on(teacher, rewritten, images, options, progress, prefix)
    steps = steps_of(images, options)
    distilled: Distilled | None = None
    if steps:
        distilled = distill(
            teacher,
            rewritten,
            repaired,
            images,
            target,
            steps=steps,
            seconds=SECONDS.get(options.effort, math.inf),
            seed=options.seed,
            progress=progress,
        )
    rewritten.module.train(training)
    results = outputs(rewritten.module, measured) if prefix is None else prefix.outputs_of(rewritten.module)
    after = compare(target, results, held_out=held)
    final = Planned(chosen.plan, rewritten.resolved)
    synthetic = options.synthetic
    spectrum = by_frequency(teacher, final, curves, images.user_count, synthetic=synthetic)
    return Calibrated(
        chosen.plan,
        rewritten,
        options.effort,
        options.order,
        synthetic,
        images.user_count,
        planned.plan,
        after,
        repaired.layers,
        repaired.left,
        images.warnings,
        before=before,
        spectrum=spectrum,
        distilled=distilled,
    )


def images_of(
    traced: Traced,
    options: Calibration,
    *,
    most: int = MOST_IMAGES,
    progress: Progress = lambda what, done, of: None,
) -> Images:
    """Gather the calibration inputs, and keep some aside. Raises OctifyError.

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
    if isinstance(options.data, str):
        data = synthetic_images(traced, seed=options.seed, progress=progress)
        images = gather(traced, data, most=most, device=device)
        return replace(images, generated=images.count)
    images = gather(traced, options.data, most=most, device=device)
    return joined_by_made(traced, images, options.seed, progress) if options.effort in STEPS else images


@dataclass(frozen=True)
class Start:
    """A plan in the bases that its low channels lose least in.

    traced:
        The model in those bases; the converted model takes over its modules.
    teacher:
        The same model in modules of its own, in eval mode: calibration reads it, and nothing writes to it.
    """

    planned: Planned
    traced: Traced
    teacher: Traced


def in_best_basis(
    traced: Traced, planned: Planned, images: Images, options: Calibration, prefix: Prefix | None = None
) -> Start:
    """``planned`` in the best bases, where calibration chooses the channels.

    Efforts that refit nothing keep theirs: a new basis keeps the function, and they are to keep the weights,
    too.
    """
    teacher, plan = copy.deepcopy(traced), planned.plan
    teacher.module.eval().requires_grad_(False)
    if options.effort != "norm" and options.order != "last":
        plan = with_rotations(teacher, plan, images.chunks, None if prefix is None else prefix.fitted)
    rotate(teacher, plan)
    return Start(Planned(plan, planned.resolved), in_basis(traced, plan), teacher)


def choose_channels(
    start: Start, images: Images, options: Calibration, progress: Progress, prefix: Prefix | None = None
) -> Planned:
    """The plan with the low channels that the channel order chooses."""
    if options.order == "energy":
        return by_energy(
            start.teacher, start.planned, images.chunks, None if prefix is None else prefix.fitted
        )
    if options.order == "greedy":
        return by_greedy(start.teacher, start.planned, images.chunks, seed=options.seed, progress=progress)
    return start.planned


def steps_of(images: Images, options: Calibration) -> int:
    """Most steps of distillation; 0 for ``standard`` without inputs kept aside, which judge it."""
    steps = STEPS.get(options.effort, 0)
    if options.effort != "standard":
        return steps
    if not images.held_out:
        return 0
    return _STEPS_FACTOR * steps if images.generated else steps


def repair_on(
    teacher: Traced,
    rewritten: Rewritten,
    images: Images,
    options: Calibration,
    progress: Progress,
    prefix: Prefix | None = None,
) -> Repaired:
    """Refit ``rewritten`` in place, as the effort says."""
    if options.effort == "norm":
        match_norms(teacher, rewritten, images.chunks)
        return Repaired((), {})
    chunks = enlarged(teacher, images, options.seed) if prefix is None else prefix.chunks
    return repair(
        teacher,
        rewritten,
        chunks,
        copies=count_of(chunks) - images.count,
        refits=0 if options.effort == "fast" else REFITS,
        seed=options.seed,
        keep_fits=steps_of(images, options) > 0,
        rows=ROWS if prefix is None else prefix.rows,
        prefix=None if prefix is None else prefix.fitted,
        progress=progress,
    )
