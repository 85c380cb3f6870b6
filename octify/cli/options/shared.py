"""Arguments and options that several commands share, each defined once."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

RUNS_CODE = "Running a model file runs its code: give only files you trust."


class Kernels(str, enum.Enum):
    """The kernel schemes of docs/mathematics.md."""

    paper = "paper"
    exact = "exact"


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="file.py, file.py:name, pkg.mod:name, timm:name, torchvision:name, hf:name or FOLDER,"
        " ultralytics:name.yaml or FILE.pt, smp:name, diffusers:FOLDER:decoder or onnx:FILE; a name may have"
        f" arguments, 'smp:Unet(classes=2)'. {RUNS_CODE}",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Weights to load: .safetensors, or a state dict saved by torch.save (never unpickled).",
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Shape of an input, such as 1x3x224x224 or 1x16:int64; repeatable for several inputs. "
        "Default: the file's example_inputs, else the size timm names, else 1x3x224x224.",
    ),
]
AlphaOption = Annotated[
    float,
    typer.Option("--alpha", metavar="SHARE", help="Share of the channels kept at half resolution, 0 to 1."),
]
RulesOption = Annotated[
    str,
    typer.Option(
        "--rules", metavar="RULES", help="A built-in rule set (octify rules list), or a .toml file."
    ),
]
KernelsOption = Annotated[
    Kernels,
    typer.Option(
        "--kernels", help="paper: the published form, cheapest; exact: no approximation but the pooling."
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="Path pattern of layers to keep dense, such as 'layer4.*'; repeatable.",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--force", help="Overwrite a file even if the run reads it or it is of another kind."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Suppress progress, warnings and tables.")]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print each step with its time, and library warnings."),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
