"""``octify export``: export a converted folder, or any model, and compare the file with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octify.cli.converted import load_converted
from octify.cli.exported import write_file, write_int8, write_onnx
from octify.cli.loading import check_model, describe, load
from octify.cli.options import int8 as quantization
from octify.cli.options.calibration import (
    BgrOption,
    CalibrationSettings,
    CropOption,
    MeanOption,
    ResizeOption,
    StdOption,
)
from octify.cli.options.onnx import BatchOption, TargetOption, of_batch
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
from octify.cli.outputs import check_export, used
from octify.cli.session import session
from octify.errors import OctifyError
from octify.export.formats import ONNX, format_of
from octify.export.targets import ExportTarget

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
        metavar="FILE.SUFFIX",
        show_default=False,
        help="The file to write. Its suffix is its format: .onnx; .pt2 is a PyTorch program (torch.export)"
        " that needs no octify, .xml an OpenVINO IR (with its .bin), .tflite LiteRT, .mlpackage Core ML, .pte"
        " ExecuTorch.",
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
    target: TargetOption = ExportTarget.onnxruntime,
    batch: BatchOption = None,
    static_batch: StaticBatchOption = False,
    int8: quantization.Int8Option = False,
    calib: quantization.CalibOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    bgr: BgrOption = False,
    min_agreement: quantization.MinAgreementOption = None,
    max_error: quantization.MaxErrorOption = None,
    reduce_range: quantization.ReduceRangeOption = None,
    force: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Export a converted folder, or a model as it is, to ONNX or another format; compare the outputs.

    Files for LiteRT, Core ML and ExecuTorch take the example's batch size, or --batch. A folder needs the
    code of its original, which its source.json names; its weights come from the folder itself. Running a
    model file runs its code: give only files you trust.

    \b
    Examples:
      octify export out out/model.onnx --batch 1
      octify export out out/model.onnx --model moved/model.py
      octify export out out/openvino.onnx --target openvino
      octify export out out/int8.onnx --int8 --calib images --min-agreement 0.98
      octify export out out/model.pt2
      octify export out out/model.tflite
      octify export model.py dense.onnx
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        data = CalibrationSettings(calib, "standard", None, mean, std, resize, crop, 0, bgr=bgr)
        settings = quantization.Int8Settings(int8, data, min_agreement, max_error, reduce_range)
        _check(file, target.value, batch, settings, static_batch=static_batch)
        is_folder = Path(what).is_dir()
        check_export(file, used(model if is_folder else what, weights, calib), force=force)
        if is_folder:
            loaded, source = load_converted(run, Path(what), model, weights, input)
        else:
            check_model(what, weights, input)
            source = load(run, what, weights, input)
            loaded = source.model
        source = source if batch is None else of_batch(source, batch)
        open_batch = not static_batch and batch is None
        if int8:
            result = write_int8(
                run, loaded, source, file, settings, dynamic_batch=open_batch, target=target.value
            )
            run.show(*result.lines())
            run.answer({"source": describe(source), "int8": result.to_dict()})
            return
        file_format = format_of(file)
        if file_format is ONNX:
            exported = write_onnx(
                run, loaded, source.example_inputs, file, dynamic_batch=open_batch, target=target.value
            )
        else:
            exported = write_file(run, loaded, source.example_inputs, file, dynamic_batch=open_batch)
        run.show(*exported.lines())
        run.answer({"source": describe(source), file_format.key: exported.to_dict()})


def _check(
    file: Path,
    target: str,
    batch: int | None,
    settings: quantization.Int8Settings,
    *,
    static_batch: bool,
) -> None:
    """Validate the options before torch is imported."""
    if static_batch and batch is not None:
        raise OctifyError(
            "--static-batch keeps the example's batch size, --batch sets another",
            hint="leave one of them out",
        )
    file_format = format_of(file)
    if file_format is not ONNX and (settings.enabled or target != ExportTarget.onnxruntime):
        raise OctifyError(
            f"{file} is {file_format.title} by its name",
            why=f"{'--int8' if settings.enabled else '--target'} is for ONNX files",
            hint=f"{file.with_suffix('.onnx')}",
        )
    file_format.check_installed()
    settings.check(target)
