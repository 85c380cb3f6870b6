"""Int8 files in one call: export, quantize, compare on inputs kept aside, time.

The file gets its name only if it answers as required; the float files it comes from are not kept.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octify.calibrate.inputs.images import Images, gather
from octify.compare.agreement import Agreement
from octify.errors import CheckFailed, OctifyError
from octify.export.calls import as_inputs, batch_size
from octify.export.onnx import Captured, captured, written
from octify.export.targets import ExportTarget, target_named
from octify.files import check_file, staged_file
from octify.int8.answers import agreement_of, answering, calls_of
from octify.int8.result import Int8Result, Times
from octify.latency import openvino
from octify.latency.bench import bench
from octify.latency.machine import instruction_sets
from octify.progress import Tell
from octify.quantize import quantized
from octify.trace import trace

ROUNDS = 10  # of timing
# By the target that is asked for: the target of the file to quantize, and the runtime that answers for it.
_PLANS: Mapping[ExportTarget, tuple[ExportTarget, str]] = {
    ExportTarget.onnxruntime: (ExportTarget.onnxruntime_int8, "onnxruntime"),
    ExportTarget.onnxruntime_int8: (ExportTarget.onnxruntime_int8, "onnxruntime"),
    ExportTarget.openvino: (ExportTarget.openvino_int8, "openvino"),
    ExportTarget.openvino_int8: (ExportTarget.openvino_int8, "openvino"),
}


def export_int8(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any],
    path: str | Path,
    data: Iterable[Any],
    dynamic_batch: bool = True,
    *,
    target: str = "onnxruntime",
    min_agreement: float | None = None,
    max_error: float | None = None,
    reduce_range: bool | None = None,
    timed: bool = True,
    progress: Tell = lambda phase: None,
) -> Int8Result:
    """Write ``model`` as an int8 ONNX file (static QDQ) and compare it with the float file.

    Parameters
    ----------
    model:
        Any module, dense or converted; exported in eval mode with BatchNorm folded. It is not changed.
    example_inputs:
        A tensor (N, C, H, W), or a sequence of positional inputs.
    path:
        The file to write. It appears when all is done and every check has passed, or not at all.
    data:
        Inputs to measure ranges on, of the example's size: batches (N, C, H, W) or single inputs, as for
        ``calibration`` of ``octify.convert``. Of 32 or more an eighth is kept aside to compare on.
    dynamic_batch:
        Leave the first dimension open. Files of a fixed batch are faster.
    target:
        ``"onnxruntime"`` or ``"openvino"``.
    min_agreement:
        Least share of inputs for which the class must be the float file's, 0 to 1.
    max_error:
        Largest relative error of the outputs against the float file's.
    reduce_range:
        Weights of 7 bits, for onnxruntime on processors without VNNI: their sums of 8-bit products
        overflow. None: where this processor is one.
    timed:
        Also time both files on this machine.
    progress:
        Callback that receives the name of every phase as it begins.

    Raises
    ------
    CheckFailed
        The file agrees with the float file in fewer cases than required.
    ExportError
        The model cannot be exported or quantized.
    OctifyError
        ``path`` cannot be written, inputs do not fit, or the target is for none of these.
    """
    path = Path(path)
    graph, runtime = _plan(target)
    narrow = _overflows(runtime) if reduce_range is None else reduce_range
    _check_limit(min_agreement)
    check_file(path)
    inputs = as_inputs(example_inputs)
    progress("reading calibration inputs")
    images = _images(model, inputs, data)
    progress("exporting")
    source = captured(model, inputs, dynamic_batch)
    with tempfile.TemporaryDirectory() as folder:
        files = _floats(source, Path(folder), graph, runtime)
        fixed = None if dynamic_batch else batch_size(inputs)
        with staged_file(path) as staged:
            progress("quantizing")
            calls = [call for chunk in images.chunks for call, _ in calls_of(chunk, fixed)]
            quantized(files.source, staged, calls, graph, reduce_range=narrow)
            progress("comparing")
            agreement = agreement_of(files.best, staged, images, fixed, runtime)
            _require(agreement, min_agreement, max_error, path)
            progress("timing")
            times = _times(files.best, staged, inputs, runtime) if timed else None
            result = Int8Result(
                path,
                graph.value,
                answering(runtime),
                staged.stat().st_size,
                files.best.stat().st_size,
                agreement,
                images.count,
                7 if narrow else 8,
                times,
                (*_warnings_of(images), *_warnings(runtime, narrow)),
            )
    return result


@dataclass(frozen=True)
class _Floats:
    """The float file to quantize, and the one to compare with: what the runtime does fastest in float."""

    source: Path
    best: Path


def _plan(target: str) -> tuple[ExportTarget, str]:
    named = target_named(target)
    if named not in _PLANS:
        raise OctifyError(
            f"{named.value} takes no int8 ONNX file",
            why="it quantizes its own files, with its own tools",
            hint="export the float file, or use the target onnxruntime or openvino",
        )
    return _PLANS[named]


def _images(model: nn.Module, inputs: tuple[Any, ...], data: Iterable[Any]) -> Images:
    """Calibration inputs of the example's size, and those kept aside."""
    if isinstance(data, str):
        raise OctifyError(
            f"int8 calibration data is the word {data!r}",
            why="ranges are measured on inputs like those the model will see",
            hint="a list of tensors will do; octify export --int8 --calib reads folders and files",
        )
    plain = copy.deepcopy(model).cpu().float().eval()  # as it is exported
    images = gather(trace(plain, inputs), data, device=torch.device("cpu"))
    _require_size(inputs, images)
    return images


def _check_limit(min_agreement: float | None) -> None:
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise OctifyError(
            f"the least agreement is {min_agreement:g}", why="it is a share, 0 to 1", hint="0.99, say"
        )


def _require_size(inputs: tuple[Any, ...], images: Images) -> None:
    """OctifyError for data of another size than the file will take."""
    example = [tuple(x.shape[1:]) for x in inputs if isinstance(x, Tensor)]
    for chunk in (*images.chunks, *images.held_out):
        sizes = [tuple(x.shape[1:]) for x in chunk]
        if sizes != example:
            have, want = ("x".join(map(str, next(iter(shape)))) for shape in (sizes, example))
            raise OctifyError(
                f"there are calibration inputs of {have}; the file takes {want}",
                why="an ONNX file is exported for one size",
                hint="give inputs of that size, or export for theirs",
            )


def _floats(source: Captured, folder: Path, graph: ExportTarget, runtime: str) -> _Floats:
    """Write both float files."""
    second = source.copy()
    return _Floats(
        written(source, folder / "source.onnx", graph).path,
        written(second, folder / "float.onnx", ExportTarget(runtime)).path,
    )


def _require(agreement: Agreement, min_agreement: float | None, max_error: float | None, path: Path) -> None:
    """Raise CheckFailed, and OctifyError where there are no classes to agree on."""
    where = f"measured on {agreement.inputs} inputs. {path} was not written"
    if min_agreement is not None and agreement.agreement is None:
        raise OctifyError(
            "the least agreement cannot be required of this model",
            why=f"its output is not (N, classes). {path} was not written",
            hint=f"require a relative error instead; it is {agreement.relative_error:.4f}",
        )
    if min_agreement is not None and not (agreement.agreement or 0.0) >= min_agreement:
        raise CheckFailed(
            f"the int8 file has the float file's class in {agreement.agreement:.2%} of the cases, less than "
            f"{min_agreement:.2%}",
            why=where,
            hint="more data like what the model will see; weights of 7 bits (--reduce-range) without VNNI",
        )
    if max_error is not None and not agreement.relative_error <= max_error:
        raise CheckFailed(
            f"the relative error of the int8 file is {agreement.relative_error:.4f}, above {max_error:g}",
            why=where,
            hint="more data like what the model will see; weights of 7 bits (--reduce-range) without VNNI",
        )


def _times(best: Path, file: Path, inputs: tuple[Any, ...], runtime: str) -> Times | None:
    """Both files in rounds on this machine; None where that is not possible."""
    if answering(runtime) != runtime or not all(isinstance(x, Tensor) for x in inputs):
        return None
    rows = bench({"float": best, "int8": file}, inputs, runtimes=[runtime], rounds=ROUNDS, memory=False).rows
    base, row = rows[0].timing, rows[1].timing
    ratio = row.ratio
    return Times(runtime, rows[0].batch, base.median, row.median, ratio.value, (ratio.low, ratio.high))


def _warnings_of(images: Images) -> tuple[str, ...]:
    """Warnings about the inputs; where they are few, about ranges and not about calibration's fit."""
    if images.held_out:
        return images.warnings
    few = (
        f"{images.count} calibration input(s) are too few to keep some aside: the agreement is that on inputs"
        " which the ranges were measured on; 100 are enough"
    )
    return (*images.warnings[:-1], few)  # the last one is that they are few for a fit


def _warnings(runtime: str, narrow: bool) -> list[str]:
    warnings = []
    if answering(runtime) != runtime:
        warnings.append(f"the file was run in onnxruntime and not timed: openvino {openvino.missing()}")
    if _overflows(runtime) and not narrow:
        warnings.append(
            "this processor has no VNNI: in onnxruntime its sums of products of 8 bits overflow, and other"
            " processors answer better; with weights of 7 bits (--reduce-range) they never do"
        )
    return warnings


def _overflows(runtime: str) -> bool:
    """Return whether ``runtime`` adds up products of 8 bits in 16 here, as onnxruntime does without VNNI."""
    sets = instruction_sets()
    return runtime == "onnxruntime" and "sse4_2" in sets and not any("vnni" in name for name in sets)
