"""``octify tune``: a converted folder trained further, by distillation or with labels."""

from __future__ import annotations

import enum
import hashlib
import importlib.util
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.cli import artefact
from octify.cli.calibration import CropOption, MeanOption, ResizeOption, SeedOption, StdOption, numbers
from octify.cli.converted import load_converted
from octify.cli.loading import load
from octify.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption
from octify.cli.session import Session, session
from octify.data import check_data, image_format
from octify.errors import OctifyError
from octify.files import staged_directory
from octify.tune.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from octify.source import Source
    from octify.tune.examples import Examples
    from octify.tune.loop import Tuned

WEIGHTS, REPORT = "weights.safetensors", "report.json"


class Labels(str, enum.Enum):
    """Whether the data's labels are used."""

    auto = "auto"
    none = "none"


class PrecisionName(str, enum.Enum):
    """Of the forward pass."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


class NormsName(str, enum.Enum):
    """What BatchNorm statistics do."""

    frozen = "frozen"
    train = "train"


FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", show_default=False, help="A folder that octify convert wrote.")
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A folder of images, .npy, .npz, .safetensors, .pt, or file.py:loader; labels are subfolders, a"
        " tensor called labels, or what the loader yields behind the inputs.",
    ),
]
LabelsOption = Annotated[
    Labels, typer.Option("--labels", help="auto: use labels where the data has some; none: leave them.")
]
StepsOption = Annotated[int, typer.Option("--steps", metavar="N", help="Optimizer steps.")]
BatchOption = Annotated[
    int, typer.Option("--batch", metavar="N", help="Inputs of a step, over all processes together.")
]
RateOption = Annotated[float, typer.Option("--lr", metavar="X", help="Largest learning rate, of AdamW.")]
DecayOption = Annotated[float, typer.Option("--weight-decay", metavar="X", help="Of AdamW.")]
WarmupOption = Annotated[
    float, typer.Option("--warmup", metavar="SHARE", help="Share of the steps in which the rate rises.")
]
DistillOption = Annotated[
    float | None,
    typer.Option(
        "--distill-weight",
        metavar="SHARE",
        help="Weight of the distance to the original's outputs; the rest is the labels'. Default: 0.5"
        " with labels, 1 without.",
    ),
]
PrecisionOption = Annotated[
    PrecisionName, typer.Option("--precision", help="Mixed precision; weights stay in float32.")
]
NormsOption = Annotated[
    NormsName, typer.Option("--norms", help="BatchNorm statistics: frozen, or following the batches.")
]
HeldOutOption = Annotated[
    float, typer.Option("--held-out", metavar="SHARE", help="Share of the inputs kept aside to measure on.")
]
AugmentOption = Annotated[
    bool, typer.Option("--augment/--no-augment", help="Shift images and flip half of them.")
]
EveryOption = Annotated[
    int, typer.Option("--checkpoint-every", metavar="N", min=1, help="Steps between checkpoints.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of a stopped run.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Begin anew although there is a checkpoint.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Folder for the tuned model. Default: DIR-tuned; DIR stays."
    ),
]


def tune(
    folder: FolderArgument,
    data: DataOption,
    steps: StepsOption = 1000,
    labels: LabelsOption = Labels.auto,
    distill_weight: DistillOption = None,
    batch: BatchOption = 32,
    lr: RateOption = 1e-4,
    weight_decay: DecayOption = 0.0,
    warmup: WarmupOption = 0.05,
    precision: PrecisionOption = PrecisionName.no,
    norms: NormsOption = NormsName.frozen,
    held_out: HeldOutOption = 0.1,
    augment: AugmentOption = True,
    checkpoint_every: EveryOption = 100,
    resume: ResumeOption = False,
    restart: RestartOption = False,
    out: OutOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a converted folder further: towards its original's outputs, and labels where there are any.

    The original is loaded again, as DIR/source.json names it, and runs beside the converted model.
    Under "accelerate launch --module octify tune DIR ..." (GPUs) or "torchrun --nproc-per-node 2 -m octify
    tune DIR ..." (CPUs as well) several processes share every batch.

    \b
    Examples:
      octify tune out --data images/ --steps 2000
      octify tune out --data train.npz --steps 5000 --lr 3e-4 --precision bf16
      octify tune out --data images/ --steps 2000 --resume
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        weight = 1.0 if labels is Labels.none else distill_weight
        settings = Settings(
            steps,
            batch,
            lr,
            weight_decay,
            warmup,
            1.0 if weight is None else weight,
            precision.value,
            norms.value,
            held_out,
            augment,
            seed,
        )
        settings.check()
        check_data(data)
        final = out or folder.with_name(f"{folder.name}-tuned")
        store = _check_places(folder, final, resume=resume, restart=restart)
        _require_accelerate()
        student, teacher, source = _models(run, folder)
        from octify.tune.examples import open_examples

        shapes = [tuple(x.shape) for x in source.example_inputs]
        form = None
        if Path(data).is_dir():
            given = numbers(mean, "--mean"), numbers(std, "--std")
            form = image_format(source.model, shapes[0], *given, resize, crop)
        run.progress(f"opening {data}")
        examples = open_examples(data, shapes, form)
        run.warn(*examples.warnings)
        settings, examples = _with_labels(settings, examples, labels, weight)
        about = _digest(folder, data)
        tuned = _tune(run, student, teacher, examples, settings, store, checkpoint_every, resume, about)
        if tuned is not None:
            run.answer(_write(run, folder, final, store, student, tuned))


def _require_accelerate() -> None:
    if importlib.util.find_spec("accelerate") is None:
        raise OctifyError("octify tune needs Hugging Face Accelerate", hint="pip install 'octify[tune]'")


def _check_places(folder: Path, final: Path, *, resume: bool, restart: bool) -> Path:
    """Where checkpoints go; refuses places that cannot be used, and to lose an unfinished run."""
    from octify.tune.places import CHECKPOINT, has_checkpoint, remove

    if not artefact.is_artefact(folder):
        raise OctifyError(
            f"{folder} is not a folder that octify wrote",
            why="it does not exist" if not folder.exists() else f"it has no {artefact.PLAN}",
            hint=f"octify convert MODEL -o {folder}",
        )
    if resume and restart:
        raise OctifyError("--resume and --restart exclude each other", hint="give one of them")
    artefact.check_destination(final, force=True)
    store = final / CHECKPOINT
    if has_checkpoint(store):
        if restart:
            remove(store)
        elif not resume:
            raise OctifyError(
                f"there is a checkpoint of an unfinished run in {final}",
                hint="--resume goes on from there, --restart begins anew",
            )
    elif resume:
        raise OctifyError(f"there is no checkpoint in {final}", hint="leave --resume out")
    if not store.exists():
        artefact.check_destination(final, force=False)
    return store


def _models(run: Session, folder: Path) -> tuple[nn.Module, nn.Module, Source]:
    """The converted model, and its original with the weights that it was converted with."""
    student, source = load_converted(run, folder, None, None, None)
    origin = artefact.read_origin(folder)
    assert origin is not None
    if origin.weights is not None and not origin.weights.is_file():
        raise OctifyError(
            f"the original's weights are gone: {origin.weights}",
            why=f"{folder / artefact.SOURCE} names them, and tuning compares with the original",
            hint="put them back, or convert again",
        )
    teacher = load(run, source.target, origin.weights, list(origin.inputs)).model
    return student, teacher, source


def _with_labels(
    settings: Settings, examples: Examples, labels: Labels, weight: float | None
) -> tuple[Settings, Examples]:
    from dataclasses import replace

    if labels is Labels.none:
        return settings, replace(examples, labels=None)
    if examples.labels is None and weight is not None and weight < 1:
        raise OctifyError(
            f"--distill-weight {weight:g} needs labels", why="the data has none", hint="leave it out"
        )
    default = 1.0 if examples.labels is None else 0.5
    return replace(settings, distill=default if weight is None else weight), examples


def _digest(folder: Path, data: str) -> str:
    """What, beside the settings, a run's result depends on: the plan, the weights, the data's name."""
    digest = hashlib.sha256(data.encode())
    for name in (artefact.PLAN, WEIGHTS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _tune(
    run: Session,
    student: nn.Module,
    teacher: nn.Module,
    examples: Examples,
    settings: Settings,
    store: Path,
    every: int,
    resume: bool,
    about: str,
) -> Tuned | None:
    """Train; the result in the main process, None in the others."""
    from accelerate import Accelerator

    from octify.tune.loop import tune as train

    accelerator = Accelerator(mixed_precision=settings.precision)
    tuned = train(
        student,
        teacher,
        examples,
        settings,
        store=store,
        every=every,
        resume=resume,
        about=about,
        accelerator=accelerator,
        tell=run.progress if accelerator.is_main_process else lambda phase: None,
    )
    accelerator.wait_for_everyone()
    main = accelerator.is_main_process
    accelerator.end_training()
    return tuned if main else None


def _write(
    run: Session, folder: Path, final: Path, store: Path, student: nn.Module, tuned: Tuned
) -> dict[str, Any]:
    """The tuned folder: the plan and origin of the first, new weights, the report with what tuning did."""
    from safetensors.torch import save

    from octify.report.tuning import render_tuning
    from octify.tune.places import remove

    origin = artefact.read_origin(folder)
    assert origin is not None
    report = json_module.loads((folder / REPORT).read_text(encoding="utf-8")) | {"tuning": tuned.to_dict()}
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in student.state_dict().items()}
    with staged_directory(final) as staged:
        (staged / artefact.PLAN).write_bytes((folder / artefact.PLAN).read_bytes())
        (staged / WEIGHTS).write_bytes(save(tensors))
        (staged / REPORT).write_text(json_module.dumps(report, indent=1) + "\n", encoding="utf-8")
        artefact.write_origin(staged, final, origin.target, origin.weights, origin.inputs)
    remove(store)
    run.show(render_tuning(tuned), f"wrote {final}: plan.json, weights.safetensors, report.json, source.json")
    return {"tuning": tuned.to_dict(), "written": {"directory": str(final)}}
