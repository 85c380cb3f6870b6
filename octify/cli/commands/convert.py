"""``octify convert``: convert a model, check the result, write a folder and an ONNX file."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.artefact import origin as artefact
from octify.cli.commands.report import HtmlOption, write_page
from octify.cli.exported import write_onnx
from octify.cli.loading import check_model, check_policy, describe, load
from octify.cli.options.calibration import (
    BgrOption,
    CalibOption,
    CalibrationSettings,
    CropOption,
    DeviceOption,
    Effort,
    EffortOption,
    MaxErrorOption,
    MeanOption,
    OrderOption,
    ResizeOption,
    SeedOption,
    StdOption,
    TargetErrorOption,
    TargetLatencyOption,
    TargetMacsOption,
    inputs_of,
    require_error,
    with_data,
)
from octify.cli.options.metric import (
    MaxDropOption,
    MetricLowerOption,
    MetricOption,
    MetricSettings,
    TargetDropOption,
    judged,
)
from octify.cli.options.onnx import BatchOption, OnnxSettings, TargetOption
from octify.cli.options.shared import (
    AlphaOption,
    DebugOption,
    ExcludeOption,
    InputOption,
    JsonOption,
    Kernels,
    KernelsOption,
    ModelArgument,
    QuietOption,
    RulesOption,
    VerboseOption,
    WeightsOption,
)
from octify.cli.outcome import require_converted
from octify.cli.outputs import Used, check_files, check_folder, used
from octify.cli.session import Session, session
from octify.errors import OctifyError
from octify.export.targets import ExportTarget
from octify.files import staged_directory
from octify.source import parse_target

if TYPE_CHECKING:
    from octify.source import Source

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder for plan.json, weights.safetensors and report.json."
        " Default: NAME-octave here, unless --onnx is given.",
    ),
]
OnnxOption = Annotated[
    Path | None,
    typer.Option("--onnx", metavar="FILE", help="Also export to ONNX and compare it with PyTorch."),
]
PlanOption = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Replay a plan.json; it decides instead of --alpha, --rules, --kernels and --exclude.",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Write into a folder that holds other files, which are kept; overwrite a file the run reads.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Convert and report, but write nothing.")]


class LatencyRuntime(str, enum.Enum):
    """A runtime that plans are timed in."""

    onnxruntime = "onnxruntime"
    onnxruntime_int8 = "onnxruntime-int8"
    openvino = "openvino"
    openvino_int8 = "openvino-int8"


LatencyOption = Annotated[
    bool,
    typer.Option(
        "--latency",
        help="Keep dense what would not run faster on this machine. Operators are timed once and kept in a"
        " table; then whole models are timed, and what is not surely faster than the original stays dense.",
    ),
]
LatencyRuntimeOption = Annotated[
    LatencyRuntime,
    typer.Option(
        "--latency-runtime",
        help="Runtime that --latency times in; openvino needs pip install 'octify[openvino]'.",
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        "--latency-threads", metavar="N", min=1, max=1024, help="Threads that --latency times with."
    ),
]

_TARGETS = ("target_macs", "target_error", "target_drop", "target_latency")
_TIMING = ("latency", "latency_runtime", "latency_threads")
_POLICY = ("alpha", *_TARGETS, "rules", "kernels", "exclude", *_TIMING)


@dataclass(frozen=True)
class OutputFiles:
    """Destinations of the results; all None on a dry run."""

    folder: Path | None
    onnx: OnnxSettings
    html: Path | None


def convert(
    context: typer.Context,
    model: ModelArgument,
    alpha: AlphaOption = 0.5,
    target_macs: TargetMacsOption = None,
    target_error: TargetErrorOption = None,
    target_drop: TargetDropOption = None,
    target_latency: TargetLatencyOption = None,
    out: OutOption = None,
    onnx: OnnxOption = None,
    target: TargetOption = ExportTarget.onnxruntime,
    batch: BatchOption = None,
    html: HtmlOption = None,
    calib: CalibOption = None,
    calib_effort: EffortOption = Effort.standard,
    channel_order: OrderOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    bgr: BgrOption = False,
    max_error: MaxErrorOption = None,
    metric: MetricOption = None,
    metric_lower: MetricLowerOption = False,
    max_drop: MaxDropOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    plan: PlanOption = None,
    rules: RulesOption = "default",
    kernels: KernelsOption = Kernels.paper,
    exclude: ExcludeOption = None,
    latency: LatencyOption = False,
    latency_runtime: LatencyRuntimeOption = LatencyRuntime.onnxruntime,
    latency_threads: ThreadsOption = 1,
    weights: WeightsOption = None,
    input: InputOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Convert a model to its octave form, report the savings, and write the result.

    Running a model file runs its code: give only files you trust.

    \b
    Examples:
      octify convert model.py --alpha 0.5 -o out --onnx out/model.onnx --batch 1
      octify convert timm:resnet26d --alpha 0.25 --exclude 'layer4.*' --dry-run
      octify convert model.py --weights model.safetensors --calib images/ -o out
      octify convert model.py --target-macs 0.6 --calib images/ -o out --html out/report.html
      octify convert model.py --metric evaluate.py:accuracy --target-drop 0.005 --calib images/ -o out
      octify convert model.py --rules everywhere --latency -o out --onnx out/model.onnx
      octify convert model.py --latency --latency-runtime openvino -o out
      octify convert model.py --target-latency 5 --calib images/ -o out
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        calibration = CalibrationSettings(
            calib,
            calib_effort.value,
            channel_order.value if channel_order else None,
            mean,
            std,
            resize,
            crop,
            seed,
            max_error,
            target_macs,
            target_error,
            target_drop,
            target_latency,
            device,
            bgr,
        )
        judge = MetricSettings(metric, metric_lower, max_drop, target_drop)
        judge.check()
        calibration.check()
        if plan is not None:
            _refuse(
                context, _POLICY, "--plan", "a plan says which channels of which layers become low, and how"
            )
        for name in _TARGETS:
            if context.params[name] is not None:
                aim = f"--{name.replace('_', '-')}"
                _refuse(context, ("alpha",), aim, "a target decides the alpha of every layer")
                timing = _TIMING[:1] if name == "target_latency" else _TIMING
                _refuse(context, timing, aim, "a target has a search of its own")
        if not latency and target_latency is None:
            _refuse(context, _TIMING[1:], _BY_MACS, "only --latency and --target-latency time anything")
        check_model(model, weights, input)
        check_policy(alpha, None if plan else rules)
        reads = used(model, weights, calib, () if plan else (rules,), plan, judge.file)
        file = OnnxSettings(onnx, target, batch)
        file.check()
        outputs = _outputs(model, out, file, html, reads, dry_run=dry_run, force=force)
        replayed = _read_plan(plan)
        source = load(run, model, weights, input)

        from octify import api

        baseline = judge.baseline(run, source.model)
        data = calibration.open(run, source)
        result = calibration.on_device(
            source,
            lambda: api.convert(
                source.model,
                source.example_inputs,
                alpha=alpha,
                rules=rules,
                kernels=kernels.value,
                plan=replayed,
                exclude=tuple(exclude or ()),
                calibration=inputs_of(data),
                effort=calibration.effort,
                channel_order=calibration.order,
                seed=seed,
                target_macs=target_macs,
                target_error=target_error,
                target_drop=target_drop,
                target_latency=target_latency,
                metric=baseline if target_drop is not None else None,
                latency=latency_threads if latency or target_latency is not None else None,
                latency_runtime=latency_runtime.value,
                progress=run.progress,
            ),
        )
        result, failure = judged(run, with_data(result, data), baseline)
        run.show(result.report)
        run.warn(*result.report.warnings)
        run.partial = result.report.to_dict() | {"source": describe(source)}
        require_converted(result.report)
        require_error(result.report, max_error)
        run.partial = run.partial | _write(run, result, source, outputs, weights, input)
        if failure is not None:
            raise failure
        judge.require(result.report.metric)
        run.answer(run.partial)


_BY_MACS = "a plan by MACs"
_HINTS = {
    "--plan": "leave one of them out, or edit the plan",
    _BY_MACS: "leave it out, or add --latency",
}


def _refuse(context: typer.Context, options: Sequence[str], beside: str, why: str) -> None:
    """Raise OctifyError for an option that another one, ``beside`` it, would make ineffective."""
    sources = {name: context.get_parameter_source(name) for name in options}
    clashes = [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if source and source.name == "COMMANDLINE"
    ]
    if clashes:
        raise OctifyError(
            f"{', '.join(clashes)} cannot be combined with {beside}",
            why=why,
            hint=_HINTS.get(beside, "leave one of them out"),
        )


def _outputs(
    model: str,
    out: Path | None,
    onnx: OnnxSettings,
    html: Path | None,
    reads: Used,
    *,
    dry_run: bool,
    force: bool,
) -> OutputFiles:
    """Choose the destinations and check, before the long work, that they can be written."""
    if dry_run:
        return OutputFiles(None, replace(onnx, path=None), None)
    if out is None and onnx.path is None:
        out = Path(f"{parse_target(model).short_name}-octave")
    if out is not None:
        check_folder(out, artefact.FILES, reads, force=force)
    check_files({"--onnx": onnx.path, "--html": html}, reads, force=force, folder=out)
    return OutputFiles(out, onnx, html)


def _read_plan(path: Path | None) -> Any:
    if path is None:
        return None
    if not path.is_file():
        raise OctifyError(f"no such plan: {path}", hint="convert writes one: DIR/plan.json")
    from octify.plan import Plan

    return Plan.load(path)


def _write(
    run: Session,
    result: Any,
    source: Source,
    outputs: OutputFiles,
    weights: Path | None,
    inputs: list[str] | None,
) -> dict[str, Any]:
    """Write the results to ``outputs``; return what was written, for JSON."""
    written: dict[str, Any] = {"directory": None, "onnx": None, "html": None}
    if outputs.folder is not None:
        run.progress(f"writing {outputs.folder}")
        with staged_directory(outputs.folder) as staged:
            result.save(staged)
            artefact.write_origin(staged, outputs.folder, source.target, weights, inputs)
        written["directory"] = str(outputs.folder)
        run.show(f"wrote {outputs.folder}: plan.json, weights.safetensors, report.json, source.json")
    if outputs.onnx.path is not None:
        exported = write_onnx(
            run,
            result.model,
            outputs.onnx.source(source).example_inputs,
            outputs.onnx.path,
            dynamic_batch=outputs.onnx.batch is None,
            target=outputs.onnx.target.value,
        )
        written["onnx"] = exported.to_dict()
        run.show(*exported.lines())
    if outputs.html is not None:
        from octify.report.html import conversion_page

        write_page(run, outputs.html, conversion_page(result.report, source=source.target))
        written["html"] = str(outputs.html)
    return {"written": written}
