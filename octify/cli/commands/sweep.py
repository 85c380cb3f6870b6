"""``octify sweep``: convert one model at several alphas; show a table and a plot."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.artefact import origin as artefact
from octify.artefact.files import PLAN, POINT, SWEEP
from octify.cli.commands.bench import ThreadsOption
from octify.cli.commands.report import HtmlOption, write_page
from octify.cli.loading import check_model, check_policy, describe, load
from octify.cli.options.calibration import (
    BgrOption,
    CalibOption,
    CalibrationSettings,
    CropOption,
    DeviceOption,
    Effort,
    EffortOption,
    MeanOption,
    OrderOption,
    ResizeOption,
    SeedOption,
    StdOption,
    inputs_of,
    warnings_of,
    with_data,
)
from octify.cli.options.metric import (
    MetricLowerOption,
    MetricOption,
    MetricSettings,
    SweepDropOption,
    judged,
)
from octify.cli.options.shared import (
    DebugOption,
    ExcludeOption,
    InputOption,
    JsonOption,
    Kernels,
    KernelsOption,
    ModelArgument,
    OverwriteOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
)
from octify.cli.outcome import require_converted
from octify.cli.outputs import Used, check_files, check_folder, refuse_read, used
from octify.cli.session import Session, session
from octify.errors import CheckFailed, OctifyError
from octify.files import check_directory, write_text
from octify.source import parse_target
from octify.storage.digests import digest_of_file

if TYPE_CHECKING:
    from torch import nn

    from octify.conversion import Result
    from octify.metric.measure import Baseline
    from octify.report.rows import Point
    from octify.source import Source
    from octify.sweeps.run import PointMaker

AlphasOption = Annotated[
    str, typer.Option("--alpha", metavar="SHARE[,SHARE...]", help="The alphas, with commas between.")
]
RuleSetsOption = Annotated[
    str,
    typer.Option(
        "--rules", metavar="RULES[,RULES...]", help="Rule sets or .toml files, with commas between."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder for sweep.json, the plot, and a converted folder for each point; a sweep that was"
        " stopped goes on from there. Default: NAME-sweep here.",
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="The plot, .png, .svg or .pdf. Default: DIR/sweep.svg."),
]
BenchOption = Annotated[
    bool, typer.Option("--bench", help="Also measure latency in onnxruntime, all points in turn.")
]


@dataclass(frozen=True)
class _Sweep:
    """Request and destinations of one run; ``data`` is a digest of the calibration inputs.

    baseline:
        The metric and its values of the original; None without a metric.
    """

    source: Source
    calibration: CalibrationSettings
    kernels: str
    exclude: tuple[str, ...]
    folder: Path
    weights: Path | None
    inputs: list[str] | None
    data: str
    baseline: Baseline | None = None

    def key(self, rules: str, alpha: float) -> str:
        """Key by which a later run recognises a finished point."""
        from octify import __version__
        from octify.sweeps.content import metric_content, rules_content
        from octify.sweeps.run import fingerprint

        calibration = asdict(self.calibration)
        # A point is the same wherever it is calibrated, and wherever its data lies.
        for name in ("device", "data", "target_drop"):
            del calibration[name]
        request = {
            "version": __version__,
            "rules": rules_content(rules),
            "alpha": repr(alpha),
            "kernels": self.kernels,
            "exclude": self.exclude,
            "inputs": describe(self.source)["inputs"],
            "calibration": {name: str(value) for name, value in calibration.items()},
            "data": self.data,
            "model": repr(self.source.model),
            "code": digest_of_file(self.source.file),
            **metric_content(self.baseline),
        }
        return fingerprint(request, self.source.model.state_dict())


def sweep(
    model: ModelArgument,
    alpha: AlphasOption = "0.125,0.25,0.5,0.75",
    rules: RuleSetsOption = "default",
    out: OutOption = None,
    plot: PlotOption = None,
    html: HtmlOption = None,
    bench: BenchOption = False,
    threads: ThreadsOption = 1,
    calib: CalibOption = None,
    calib_effort: EffortOption = Effort.standard,
    channel_order: OrderOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    bgr: BgrOption = False,
    metric: MetricOption = None,
    metric_lower: MetricLowerOption = False,
    max_drop: SweepDropOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    kernels: KernelsOption = Kernels.paper,
    exclude: ExcludeOption = None,
    weights: WeightsOption = None,
    input: InputOption = None,
    force: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Convert a model at several alphas: MACs, memory, error and latency, as a table and a plot.

    Each point is a converted folder of its own (DIR/RULES-ALPHA) that octify export and octify bench accept.
    Running a model file runs its code: give only files you trust.

    \b
    Examples:
      octify sweep model.py --alpha 0.125,0.25,0.5,0.75
      octify sweep model.py --calib images/ --metric evaluate.py:accuracy --max-drop 0.01
      octify sweep model.py --rules default,paper --calib images/ --bench --plot sweep.png
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        order = channel_order.value if channel_order else None
        effort = calib_effort.value
        settings = CalibrationSettings(
            calib, effort, order, mean, std, resize, crop, seed, device=device, bgr=bgr
        )
        settings.check()
        judge = MetricSettings(metric, metric_lower, max_drop)
        judge.check()
        requests = [(name, share) for name in _names(rules) for share in shares_of(alpha)]
        check_model(model, weights, input)
        for name, share in requests:
            check_policy(share, name)
        folder = out or Path(f"{parse_target(model).short_name}-sweep")
        reads = used(model, weights, calib, _names(rules), metric=judge.file)
        from octify.sweeps.run import place_of

        places = [place_of(*each) for each in requests]
        drawn = _check_outputs(folder, plot, html, places, reads, force=force)
        source = load(run, model, weights, input)

        from octify.sweeps.content import data_digest
        from octify.sweeps.run import convert_point

        baseline = judge.baseline(run, source.model)
        request = _Sweep(
            source,
            settings,
            kernels.value,
            tuple(exclude or ()),
            folder,
            weights,
            input,
            data_digest(calib),
            baseline,
        )
        maker = _maker(run, request)
        points = [convert_point(maker, name, share, run.progress)[0] for name, share in requests]
        if bench:
            points = _timed(run, request, points, threads)
        _finish(run, request, points, drawn, html)
        _require_drop(run, points, max_drop)
        run.answer(run.partial)


def _require_drop(run: Session, points: Sequence[Point], most: float | None) -> None:
    """Name the cheapest point within ``--max-drop``. Raises CheckFailed when there is none."""
    if most is None:
        return
    rows = [(point, point.metric) for point in points if point.metric is not None]
    within = [point for point, row in rows if row.keeps(most)]
    if within:
        run.show(f"cheapest within --max-drop {most:g}: {min(within, key=lambda point: point.macs).name}")
        return
    from octify.report.metric import number

    best, row = min(rows, key=lambda each: each[1].drop)
    raise CheckFailed(
        f"no conversion keeps the metric within --max-drop {most:g}",
        why=f"{best.name} comes nearest: {row.worst.name} drops by {number(row.drop)}",
        hint="smaller alphas, --calib data, or octify convert --target-drop to search",
    )


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise OctifyError("--rules is empty", hint="--rules default,paper")
    return list(dict.fromkeys(names))


def shares_of(text: str) -> list[float]:
    """Numbers of ``--alpha``, each once. Raises OctifyError for what is none."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise OctifyError(
            f"--alpha is {text!r}",
            why="it is numbers from 0 to 1 with commas between",
            hint="--alpha 0.25,0.5",
        ) from error
    return list(dict.fromkeys(shares))


def _check_outputs(
    folder: Path, plot: Path | None, html: Path | None, places: Sequence[str], reads: Used, *, force: bool
) -> Path | None:
    """Path of the plot; None where none was requested by name and matplotlib is missing."""
    from octify.sweeps.plot import check_plot

    check_directory(folder, artefact.SWEEPS)
    foreign = folder.is_dir() and not any(
        (entry / PLAN).is_file() or entry.name == SWEEP for entry in folder.iterdir()
    )
    if foreign and not force and any(folder.iterdir()):
        raise OctifyError(
            f"{folder} is not empty, and not the folder of a sweep",
            hint="another folder: -o DIR, or --force to write into it (its other files are kept)",
        )
    for place in places:
        check_folder(folder / place, (*artefact.FILES, POINT), reads, force=force)
    for name in () if force else artefact.SWEEPS:
        refuse_read(folder / name, "-o", reads)
    check_files({"--plot": plot, "--html": html}, reads, force=force)
    chosen = plot or folder / "sweep.svg"
    try:
        check_plot(chosen)
    except OctifyError:
        if plot is not None:
            raise
        return None
    return chosen


def _maker(run: Session, request: _Sweep) -> PointMaker:
    """Maker of the points: opens the calibration data for each, and records the origin of the model."""
    from octify import api
    from octify.sweeps.run import PointMaker

    def convert(rules: str, alpha: float, progress: Callable[[str], None]) -> Result:
        data = request.calibration.open(run, request.source)
        result = request.calibration.on_device(
            request.source,
            lambda: api.convert(
                request.source.model,
                request.source.example_inputs,
                alpha=alpha,
                rules=rules,
                kernels=request.kernels,  # type: ignore[arg-type]
                exclude=request.exclude,
                calibration=inputs_of(data),
                effort=request.calibration.effort,
                channel_order=request.calibration.order,
                seed=request.calibration.seed,
                progress=progress,
            ),
        )
        run.warn(*warnings_of(data))
        if data is not None and result.report.calibration is None:
            run.warn(*result.report.warnings)
        require_converted(result.report)
        result, failure = judged(run, with_data(result, data), request.baseline)
        if failure is not None:
            raise failure
        return result

    def origin(staged: Path, place: Path) -> None:
        artefact.write_origin(staged, place, request.source.target, request.weights, request.inputs)

    return PointMaker(convert, request.folder, request.key, origin)


def _timed(run: Session, request: _Sweep, points: Sequence[Point], threads: int) -> list[Point]:
    """Points with latencies: the original and all points, timed in turn."""
    from octify import api
    from octify.sweeps.run import timed

    models: dict[str, nn.Module] = {}
    for point in points:
        run.progress(f"loading {point.name}")
        models[point.name] = api.load(request.folder / point.name, request.source.model)
    model, inputs = request.source.model, request.source.example_inputs
    return timed(model, inputs, points, models, threads=threads, progress=run.progress)


def _finish(
    run: Session, request: _Sweep, points: Sequence[Point], plot: Path | None, html: Path | None
) -> None:
    """Show the table, write sweep.json, the plot and the page."""
    from octify.report.html import sweep_page
    from octify.report.sweep import render_sweep
    from octify.sweeps.plot import plot as draw

    document: dict[str, Any] = {
        "source": describe(request.source),
        "points": [point.to_dict() for point in points],
    }
    run.show(render_sweep(points, request.source.name))
    write_text(request.folder / SWEEP, json_module.dumps(document, indent=1) + "\n")
    run.show(f"wrote {request.folder}: sweep.json and {len(points)} converted folders")
    if plot is None:
        run.warn("no plot was drawn: pip install 'octify[plot]'")
    else:
        run.progress(f"drawing {plot}")
        draw(points, request.source.name, plot)
        run.show(f"wrote {plot}")
    if html is not None:
        write_page(run, html, sweep_page(points, request.source.target, document))
    written = {"directory": str(request.folder), "plot": plot and str(plot), "html": html and str(html)}
    run.partial = document | {"written": written}
