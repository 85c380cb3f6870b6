"""``octify tune``: train the model of a converted folder further on data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from octify.artefact import origin as artefact
from octify.cli.converted import check_origin, find_origin
from octify.cli.loading import describe, load
from octify.cli.options.calibration import BgrOption, CropOption, MeanOption, ResizeOption, StdOption
from octify.cli.options.metric import MaxDropOption, MetricLowerOption, MetricOption, MetricSettings
from octify.cli.options.shared import DebugOption, JsonOption, OverwriteOption, QuietOption, VerboseOption
from octify.cli.options.tuning import (
    Augment,
    AugmentOption,
    BatchOption,
    DataOption,
    DecayOption,
    EvalOption,
    EveryOption,
    FolderArgument,
    Labels,
    LabelsOption,
    LrOption,
    ModelOption,
    NormMode,
    NormOption,
    OutOption,
    PrecisionOption,
    ResumeOption,
    SeedOption,
    StepsOption,
    WarmupOption,
    WeightOption,
    WeightsOption,
)
from octify.cli.outputs import Used, check_folder, refuse_read, used
from octify.cli.session import Session, session
from octify.errors import OctifyError
from octify.files import check_file, staged_directory
from octify.tune.options import Options

if TYPE_CHECKING:
    from torch import nn

    from octify.metric.measure import Baseline
    from octify.report.tuning import TuningRow
    from octify.source import Source
    from octify.tune.data import Samples


def tune(
    folder: FolderArgument,
    data: DataOption,
    steps: StepsOption,
    out: OutOption = None,
    labels: LabelsOption = Labels.auto,
    distill_weight: WeightOption = None,
    batch: BatchOption = Options.batch,
    lr: LrOption = Options.lr,
    weight_decay: DecayOption = Options.weight_decay,
    warmup: WarmupOption = None,
    precision: PrecisionOption = None,
    augment: AugmentOption = Augment.auto,
    norm: NormOption = NormMode.frozen,
    eval: EvalOption = Options.held_out,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    bgr: BgrOption = False,
    metric: MetricOption = None,
    metric_lower: MetricLowerOption = False,
    max_drop: MaxDropOption = None,
    seed: SeedOption = 0,
    checkpoint_every: EveryOption = Options.checkpoint_every,
    resume: ResumeOption = False,
    force: OverwriteOption = False,
    model: ModelOption = None,
    weights: WeightsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a converted model further: distil its original, train on labels, or both.

    Without labels the original's outputs are the target. One process uses the GPU if there is one; under
    accelerate launch the batch is split among all processes. Ctrl-C writes a checkpoint; the same command
    with --resume continues from it, to the same result.

    \b
    Examples:
      octify tune out --data images/ --steps 2000
      octify tune out --data train.npz --steps 2000 --labels required -o tuned
      accelerate launch --module octify tune out --data images/ --steps 2000
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        options = Options(
            steps=steps,
            batch=batch,
            lr=lr,
            weight_decay=weight_decay,
            warmup=warmup,
            precision=precision.value if precision else None,
            seed=seed,
            held_out=eval,
            labels=labels.value,
            distill_weight=distill_weight,
            augment=augment.value,
            norm=norm.value,
            checkpoint_every=checkpoint_every,
        )
        options.check()
        judge = MetricSettings(metric, metric_lower, max_drop)
        judge.check()
        again = f"octify tune {folder} ... --model MODEL --weights FILE"
        origin = find_origin(folder, model, weights, again)
        check_origin(origin, None if model or weights else f"{again}, as they are now")
        _check_data(data)
        reads = used(origin.target, origin.weights, data, metric=judge.file)
        places = _places(folder, out, reads, resume=resume, force=force)
        pixels = _Pixels(_numbers(mean, "--mean"), _numbers(std, "--std"), resize, crop, bgr)
        _require_accelerate()
        _mute_others(run)
        source = load(run, origin.target, origin.weights, origin.inputs)
        _tune(run, folder, places, origin, source, pixels, data, options, judge, resume=resume)


@dataclass(frozen=True)
class _Places:
    """Paths of the result and of the checkpoint, which exists until the result is written."""

    folder: Path
    checkpoint: Path


@dataclass(frozen=True)
class _Pixels:
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resize: int | None
    crop: int | None
    bgr: bool = False


def _places(folder: Path, out: Path | None, reads: Used, *, resume: bool, force: bool) -> _Places:
    final = out or Path(f"{os.path.normpath(folder)}-tuned")
    own = {what: path for what, path in reads.items() if path.parent.resolve() != folder.resolve()}
    in_place = final.resolve() == folder.resolve()
    check_folder(final, artefact.FILES, own if in_place else reads, force=force)
    checkpoint = Path(f"{os.path.normpath(final)}.checkpoint.safetensors")
    if not force:
        refuse_read(checkpoint, "the checkpoint", reads)
    check_file(checkpoint)
    if checkpoint.exists() and not resume:
        raise OctifyError(
            f"a run into {final} was stopped, and its checkpoint {checkpoint} is there",
            hint="--resume to go on from it, another -o DIR, or delete it to start anew",
        )
    return _Places(final, checkpoint)


def _check_data(data: str) -> None:
    from octify.data import check_data

    if data == "synthetic":
        raise OctifyError(
            "tune needs data",
            why="synthetic images are enough to calibrate with, and too few to train with",
            hint="--data with a folder of images, a tensor file or file.py:loader",
        )
    check_data(data, "training data")


def _require_accelerate() -> None:
    from importlib.util import find_spec

    if find_spec("accelerate") is None:
        raise OctifyError(
            "octify tune needs Hugging Face Accelerate, which is not installed",
            hint="pip install 'octify[tune]'",
        )


def _mute_others(run: Session) -> None:
    """Silence all processes but the first; every process still reports its own errors."""
    if not _writes():
        run.quiet, run.verbose, run.json = True, False, False


def _writes() -> bool:
    """Return whether this is the process that writes, and measures the metric."""
    return os.environ.get("RANK", "0") == "0"


def _judged(
    run: Session, row: TuningRow, baseline: Baseline, student: nn.Module
) -> tuple[TuningRow, OctifyError | None]:
    """``row`` with the metric of the trained model, or as it was and the metric's error."""
    run.progress(f"measuring {baseline.metric.name} of the trained model")
    try:
        return replace(row, metric_after=baseline.compare(student, "the trained model")), None
    except OctifyError as error:
        return row, error


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise OctifyError(
            f"{option} is {text!r}", why="it is one number, or one for each channel", hint=f"{option} 0.5"
        ) from error


def _tune(
    run: Session,
    folder: Path,
    places: _Places,
    origin: artefact.Origin,
    source: Source,
    pixels: _Pixels,
    data: str,
    options: Options,
    judge: MetricSettings,
    *,
    resume: bool,
) -> None:
    from octify import api
    from octify.artefact.tuned import identity, read_report, write_tuned
    from octify.tune.finished import finished_row, run_digest
    from octify.tune.leave import leave_together
    from octify.tune.loop import tune, tuning_row

    report = read_report(folder)
    run.progress(f"loading {folder}")
    student = api.load(folder, source.model)
    run.progress(f"opening {data}")
    samples = _samples(source, pixels, data)
    words = identity(folder, source.model)
    if resume:
        done = finished_row(read_report(places.folder), words, samples.digest, options, places.checkpoint)
        if done is not None:
            _say_finished(run, places, source, done, judge)
            return
        if not places.checkpoint.is_file():
            run.warn(f"there is no checkpoint {places.checkpoint}: the run starts from its beginning")
            resume = False
    baseline = judge.baseline(run, source.model) if _writes() else None
    metric_before = None if baseline is None else baseline.compare(student, "the model before training")
    tuned = tune(
        student,
        source.model,
        samples,
        options,
        checkpoint=places.checkpoint,
        resume=resume,
        identity=words,
        progress=run.progress,
        warn=run.warn,
    )
    row = replace(
        tuning_row(tuned, options),
        run=run_digest(words, samples.digest, options),
        began_with=words["weights"],
        metric_before=metric_before,
    )
    failure = None
    if baseline is not None:
        row, failure = _judged(run, row, baseline, student)
    if tuned.main_process:
        run.progress(f"writing {places.folder}")
        with staged_directory(places.folder) as staged:
            write_tuned(staged, folder, report, student, row, tuned.warnings)
            artefact.write_origin(staged, places.folder, origin.target, origin.weights, origin.inputs)
        places.checkpoint.unlink(missing_ok=True)
        _warn_of_exports(run, places.folder)
    try:
        _answer(run, places, source, row, tuned.warnings, judge=judge, failure=failure)
    finally:  # the others wait, whatever came of the metric
        leave_together()


def _say_finished(
    run: Session, places: _Places, source: Source, row: TuningRow, judge: MetricSettings
) -> None:
    """Finish a run that stopped after its result was written: remove its checkpoint."""
    if _writes():
        places.checkpoint.unlink(missing_ok=True)
    message = f"{places.folder} holds the result of this run already; leave --resume out to train further"
    run.warn(message)
    baseline, failure = judge.baseline(run, source.model) if _writes() else None, None
    if baseline is not None:  # not the stored values: what the function reads may have changed
        from octify import api

        row, failure = _judged(run, row, baseline, api.load(places.folder, source.model))
    _answer(run, places, source, row, (message,), judge=judge, failure=failure)


def _answer(
    run: Session,
    places: _Places,
    source: Source,
    row: TuningRow,
    warnings: Sequence[str],
    *,
    judge: MetricSettings,
    failure: OctifyError | None = None,
) -> None:
    """Show the result; then raise the metric's failure, or CheckFailed for a drop above ``--max-drop``."""
    from octify.report.tuning import render_tuning

    run.show(*render_tuning(row))
    run.show(f"wrote {places.folder}: plan.json, weights.safetensors, report.json, source.json")
    run.partial = {
        "source": describe(source),
        "tuning": row.to_dict(),
        "warnings": list(warnings),
        "written": {"directory": str(places.folder)},
    }
    if failure is not None:
        raise failure
    judge.require(row.metric_after)
    run.answer(run.partial)


def _samples(source: Source, pixels: _Pixels, data: str) -> Samples:
    from octify.data.format import image_format
    from octify.trace.facts import InputSpec
    from octify.tune.data import open_samples

    specs = [InputSpec.of(x) for x in source.example_inputs]
    form = None
    if Path(data).is_dir():
        form = image_format(
            source.model,
            specs[0].shape,
            pixels.mean,
            pixels.std,
            pixels.resize,
            pixels.crop,
            bgr=pixels.bgr,
        )
    return open_samples(data, specs, form)


def _warn_of_exports(run: Session, folder: Path) -> None:
    for path in sorted(folder.glob("*.onnx")):
        run.warn(f"{path} is of the weights before tuning: octify export {folder} {path}")
