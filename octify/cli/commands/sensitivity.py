"""``octify sensitivity``: error against MACs and time for every coupled set of channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.checks.alpha import check_worst
from octify.cli.commands.report import write_page
from octify.cli.commands.sweep import AlphasOption, shares_of
from octify.cli.loading import check_model, check_policy, describe, load
from octify.cli.options.calibration import (
    BgrOption,
    CalibrationSettings,
    CropOption,
    MeanOption,
    ResizeOption,
    SeedOption,
    StdOption,
    inputs_of,
    warnings_of,
)
from octify.cli.options.metric import MetricLowerOption, MetricOption, MetricSettings
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
    RulesOption,
    VerboseOption,
    WeightsOption,
)
from octify.cli.outputs import Used, check_files, refuse_edited, used
from octify.cli.session import Session, session
from octify.errors import OctifyError
from octify.files import write_text

if TYPE_CHECKING:
    from octify.sweeps.sensitivity import SensitivityResult

DataOption = Annotated[
    str,
    typer.Option(
        "--calib",
        metavar="DATA",
        show_default=False,
        help="Inputs, without labels, half to calibrate every trial and half to measure it: a folder of"
        " images, .npy, .npz, .safetensors, .pt, file.py:loader, or the word synthetic.",
    ),
]
LatencyOption = Annotated[
    bool,
    typer.Option(
        "--latency/--no-latency",
        help="Show milliseconds in onnxruntime, too. Operators are timed once and kept in a table.",
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        "--latency-threads", metavar="N", min=1, max=1024, help="Threads that operators are timed with."
    ),
]
CsvOption = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="Write one row for every set and alpha as a .csv file."),
]
PageOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the table, plots and rules.")
]
RulesOutOption = Annotated[
    Path | None,
    typer.Option(
        "--rules-out",
        metavar="FILE",
        help="Write the rules that keep the worst sets dense, for octify convert --rules FILE. Default: print"
        " them.",
    ),
]
WorstOption = Annotated[
    float,
    typer.Option(
        "--worst", metavar="SHARE", help="Share of the sets that these rules keep dense, rounded up."
    ),
]


def sensitivity(
    model: ModelArgument,
    calib: DataOption,
    alpha: AlphasOption = "0.25,0.5,0.75",
    csv: CsvOption = None,
    html: PageOption = None,
    rules_out: RulesOutOption = None,
    worst: WorstOption = 0.1,
    metric: MetricOption = None,
    metric_lower: MetricLowerOption = False,
    latency: LatencyOption = True,
    latency_threads: ThreadsOption = 1,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    bgr: BgrOption = False,
    seed: SeedOption = 0,
    rules: RulesOption = "default",
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
    """Measure every coupled set of channels alone: error against MACs and milliseconds, the worst first.

    The table is sorted by error for every MAC saved; rules that keep the worst dense follow it.
    Running a model file runs its code: give only files you trust.

    \b
    Examples:
      octify sensitivity model.py --calib images/
      octify sensitivity model.py --calib images/ --rules-out mine.toml --html out.html --csv out.csv
      octify convert model.py --calib images/ --rules mine.toml -o out
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        settings = CalibrationSettings(
            calib, "fast", None, mean, std, resize, crop, seed, device=None, bgr=bgr
        )
        settings.check()
        judge = MetricSettings(metric, metric_lower)
        judge.check()
        shares = shares_of(alpha)
        check_model(model, weights, input)
        for share in shares:
            check_policy(share, rules)
        reads = used(model, weights, calib, (rules,), metric=judge.file)
        _check_outputs(csv, html, rules_out, reads, force=force)
        check_worst(worst)
        source = load(run, model, weights, input)

        from octify.sweeps.sensitivity import sensitivity

        baseline = judge.baseline(run, source.model)
        data = settings.open(run, source)
        result = sensitivity(
            source.model,
            source.example_inputs,
            inputs_of(data),
            shares,
            rules,
            kernels.value,
            tuple(exclude or ()),
            seed=seed,
            metric=baseline,
            latency=latency_threads if latency else None,
            progress=run.progress,
        )
        run.show(result.rows)
        run.warn(*warnings_of(data))
        document = result.to_dict() | {"source": describe(source), "rules_file": result.rules(worst)}
        run.answer(document | _write(run, result, source.target, worst, csv, html, rules_out))


def _check_outputs(
    csv: Path | None, html: Path | None, rules_out: Path | None, reads: Used, *, force: bool
) -> None:
    """Raise OctifyError, before the long work, for files that cannot be written or would not be read."""
    if rules_out is not None and rules_out.suffix != ".toml":
        raise OctifyError(
            f"{rules_out} is not a rule file's name",
            why="--rules takes .toml files",
            hint=f"--rules-out {rules_out}.toml",
        )
    refuse_edited(rules_out, "--rules-out", force=force)
    check_files({"--csv": csv, "--html": html, "--rules-out": rules_out}, reads, force=force)


def _write(
    run: Session,
    result: SensitivityResult,
    target: str,
    worst: float,
    csv: Path | None,
    html: Path | None,
    rules_out: Path | None,
) -> dict[str, Any]:
    """Write the files, or print the rules where they have none; return what was written, for JSON."""
    from octify.report.html.sensitivity import sensitivity_page

    rules = result.rules(worst)
    if csv is not None:
        write_text(csv, result.to_csv())
        run.show(f"wrote {csv}")
    if html is not None:
        write_page(run, html, sensitivity_page(result.rows, target, rules))
    if rules_out is not None:
        write_text(rules_out, rules)
        run.show(f"wrote {rules_out}: octify convert {target} --rules {rules_out}")
    else:
        run.show("", "rules that keep the worst dense (--rules-out FILE.toml writes them):", "", rules)
    paths = {"csv": csv, "html": html, "rules": rules_out}
    return {"written": {name: path and str(path) for name, path in paths.items()}}
