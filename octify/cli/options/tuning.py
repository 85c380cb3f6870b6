"""The options of ``octify tune``, each spelled and explained once."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from octify.cli.options.shared import RUNS_CODE


class Labels(str, enum.Enum):
    """Whether to train with labels."""

    auto = "auto"
    none = "none"
    required = "required"


class Precision(str, enum.Enum):
    """What the models compute in; weights and optimizer are float32."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


class Augment(str, enum.Enum):
    """How inputs are varied."""

    auto = "auto"
    none = "none"
    shift = "shift"
    flip = "flip"


class Norm(str, enum.Enum):
    """Which BatchNorm statistics are used in training."""

    frozen = "frozen"
    reestimated = "reestimated"
    batch = "batch"


FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        show_default=False,
        help=f"A folder that octify convert or octify tune wrote. Its original is built again. {RUNS_CODE}",
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
    int, typer.Option("--steps", metavar="N", show_default=False, help="Steps of training in all.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder for the result, which may be DIR. Default: DIR-tuned; DIR stays as it is.",
    ),
]
LabelsOption = Annotated[
    Labels,
    typer.Option("--labels", help="auto: used if the data has those of the model's classes; none: distil."),
]
WeightOption = Annotated[
    float | None,
    typer.Option(
        "--distill-weight",
        metavar="SHARE",
        help="Share of the original's outputs in the loss beside the labels. Default: 0.5 with labels.",
    ),
]
BatchOption = Annotated[
    int, typer.Option("--batch", metavar="N", help="Inputs of a step, over all processes together.")
]
LrOption = Annotated[float, typer.Option("--lr", metavar="X", help="Largest learning rate, of AdamW.")]
DecayOption = Annotated[float, typer.Option("--weight-decay", metavar="X", help="Of weights, as AdamW does.")]
WarmupOption = Annotated[
    int | None,
    typer.Option(
        "--warmup", metavar="N", help="Steps of rising learning rate, before a cosine. Default: a twentieth."
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", help="Mixed precision. Default: what accelerate launch says, else no."),
]
AugmentOption = Annotated[
    Augment,
    typer.Option(
        "--augment",
        help="shift: images by up to an eighth; flip: and left to right. auto: flip without labels, shift"
        " with them, none for a dataset, which has its own transforms.",
    ),
]
NormOption = Annotated[
    Norm,
    typer.Option(
        "--norm",
        help="BatchNorm statistics: as they are, of the data before the first step, or of each batch.",
    ),
]
EvalOption = Annotated[
    float,
    typer.Option("--eval", metavar="SHARE", help="Kept from training to measure on, at most 2000 inputs."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=-(2**63), max=2**63 - 1, help="Of all random choices.")
]
EveryOption = Annotated[
    int,
    typer.Option(
        "--checkpoint-every", metavar="N", help="Steps between checkpoints; 0: only when the run is stopped."
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint of a run that was stopped.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="The original, where it is not where DIR/source.json says."
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="Its weights, where they are not where source.json says."),
]
