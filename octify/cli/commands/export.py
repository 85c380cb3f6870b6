"""``octify export``: export a converted folder, or any model, and compare the file with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octify.cli.converted import load_converted
from octify.cli.exported import PROGRAM, write_onnx, write_program
from octify.cli.loading import check_model, describe, load
from octify.cli.options.shared import (
    RUNS_CODE,
    DebugOption,
    InputOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
)
from octify.cli.outputs import check_files, used
from octify.cli.session import session

WhatArgument = Annotated[
    str,
    typer.Argument(
        metavar="DIR|MODEL",
        show_default=False,
        help=f"A folder that octify convert wrote, or a model to export as it is. {RUNS_CODE}",
    ),
]
FileArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE.onnx|FILE.pt2",
        show_default=False,
        help="The ONNX file to write; with .pt2, a PyTorch program (torch.export) that needs no octify.",
    ),
]
OriginalOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="The original of DIR, where it is not where DIR/source.json says."
    ),
]
StaticBatchOption = Annotated[
    bool, typer.Option("--static-batch", help="Keep the example's batch size instead of any batch size.")
]


def export(
    what: WhatArgument,
    file: FileArgument,
    model: OriginalOption = None,
    weights: WeightsOption = None,
    input: InputOption = None,
    static_batch: StaticBatchOption = False,
    force: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Export a converted folder, or a model as it is, to ONNX or a PyTorch program; compare the outputs.

    A folder needs the code of its original, which its source.json names; its weights come from the
    folder itself. Running a model file runs its code: give only files you trust.

    \b
    Examples:
      octify export out out/model.onnx
      octify export out out/model.onnx --model moved/model.py
      octify export out out/model.pt2
      octify export model.py dense.onnx
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        is_folder = Path(what).is_dir()
        check_files({"FILE": file}, used(model if is_folder else what, weights), force=force)
        if is_folder:
            loaded, source = load_converted(run, Path(what), model, weights, input)
        else:
            check_model(what, weights, input)
            source = load(run, what, weights, input)
            loaded = source.model
        kind, write = ("program", write_program) if file.suffix == PROGRAM else ("onnx", write_onnx)
        exported = write(run, loaded, source.example_inputs, file, dynamic_batch=not static_batch)
        run.show(*exported.lines())
        run.answer({"source": describe(source), kind: exported.to_dict()})
