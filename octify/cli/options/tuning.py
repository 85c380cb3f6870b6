"""Options of ``octify tune``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from octify.cli.options.shared import RUNS_CODE


class Labels(str, enum.Enum):
    """Use of labels in training."""

    auto = "auto"
    none = "none"
    required = "required"


class Precision(str, enum.Enum):
    """Mixed precision of the forward passes; weights and optimizer state are float32."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


class Augment(str, enum.Enum):
    """Augmentation of the inputs."""

    auto = "auto"
    none = "none"
    shift = "shift"
    flip = "flip"


class NormMode(str, enum.Enum):
    """BatchNorm statistics used in training."""

    frozen = "frozen"
    reestimated = "reestimated"
    batch = "batch"


FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        show_default=False,
        help=f"Folder written by octify convert or octify tune. Its original is built again. {RUNS_CODE}",
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        show_default=False,
        help="Inputs like those the model will see: a folder of images (folders in it are classes), .npy,"
        " .npz, .safetensors or .pt (a tensor called labels is one), or file.py:loader, a dataset or"
        " iterable of inputs or (input, label).",
    ),
]
StepsOption = Annotated[
    int, typer.Option("--steps", metavar="N", show_default=False, help="Total number of training steps.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder for the result, which may be DIR itself. Default: DIR-tuned; DIR stays unchanged.",
    ),
]
LabelsOption = Annotated[
    Labels,
    typer.Option("--labels", help="auto: use labels that fit the model's classes; none: distillation only."),
]
WeightOption = Annotated[
    float | None,
    typer.Option(
        "--distill-weight",
        metavar="SHARE",
        help="Weight of distillation in the loss beside the labels. Default: 0.5 with labels.",
    ),
]
BatchOption = Annotated[
    int, typer.Option("--batch", metavar="N", help="Batch size of a step, summed over all processes.")
]
LrOption = Annotated[float, typer.Option("--lr", metavar="X", help="Peak learning rate of AdamW.")]
DecayOption = Annotated[float, typer.Option("--weight-decay", metavar="X", help="Weight decay of AdamW.")]
WarmupOption = Annotated[
    int | None,
    typer.Option(
        "--warmup",
        metavar="N",
        help="Steps of warm-up before the cosine decay. Default: a twentieth.",
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", help="Mixed precision. Default: that of accelerate launch, else no."),
]
AugmentOption = Annotated[
    Augment,
    typer.Option(
        "--augment",
        help="shift: move images by up to an eighth; flip: also mirror them. auto: flip without labels, shift"
        " with labels, none for a dataset with its own transforms.",
    ),
]
NormOption = Annotated[
    NormMode,
    typer.Option(
        "--norm",
        help="BatchNorm statistics: unchanged, re-estimated before the first step, or those of each batch.",
    ),
]
EvalOption = Annotated[
    float,
    typer.Option(
        "--eval", metavar="SHARE", help="Share of the data held out to measure on, at most 2000 inputs."
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=-(2**63), max=2**63 - 1, help="Seed for all random choices.")
]
EveryOption = Annotated[
    int,
    typer.Option(
        "--checkpoint-every",
        metavar="N",
        help="Steps between checkpoints; 0: one only when the run is stopped.",
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue from the checkpoint of a run that was stopped.")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="The original, if it moved since source.json was written."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="The original's weights, if they moved since source.json was written.",
    ),
]
