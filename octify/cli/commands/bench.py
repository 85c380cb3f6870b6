"""``octify bench``: time models, converted folders and ONNX files against each other."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.cli.converted import load_converted
from octify.cli.loading import check_model, check_policy, load
from octify.cli.options.shared import (
    RUNS_CODE,
    AlphaOption,
    DebugOption,
    InputOption,
    JsonOption,
    QuietOption,
    RulesOption,
    VerboseOption,
    WeightsOption,
)
from octify.cli.outcome import require_converted
from octify.cli.session import Session, session
from octify.errors import OctifyError
from octify.source import parse_shape

if TYPE_CHECKING:
    from torch import Tensor, nn


class RuntimeName(str, enum.Enum):
    """Runtime of the models."""

    onnxruntime = "onnxruntime"
    onnxruntime_int8 = "onnxruntime-int8"
    onnxruntime_cuda = "onnxruntime-cuda"
    openvino = "openvino"
    openvino_int8 = "openvino-int8"
    ncnn = "ncnn"
    eager = "eager"
    channels_last = "channels-last"
    compile = "compile"


WhatArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="A [B ...]",
        show_default=False,
        help="ONNX files, folders that octify convert wrote, or models; the first is what the others are"
        f" compared with. A single model is compared with its conversion. {RUNS_CODE}",
    ),
]
RuntimeOption = Annotated[
    list[RuntimeName] | None,
    typer.Option(
        "--runtime",
        help="Runtime; repeatable. Models are exported for it, at a fixed batch, and quantized for"
        " -int8 (with ranges of random inputs: for timing only). eager, channels-last and compile (inductor,"
        " weights frozen) are PyTorch's. Default: onnxruntime, on the CPU.",
    ),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", metavar="N", min=1, max=1024, help="Threads of an operator.")
]
BatchOption = Annotated[
    list[int] | None,
    typer.Option(
        "--batch", metavar="N", min=1, max=2**24, help="Batch size; repeatable. Default: that of --input."
    ),
]
RoundsOption = Annotated[
    int,
    typer.Option(
        "--rounds",
        metavar="N",
        min=1,
        max=2**31 - 1,
        help="Number of timing rounds, in which all take turns.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help="Device of PyTorch's runtimes: cpu, cuda or cuda:1."),
]
ProfileOption = Annotated[
    bool, typer.Option("--profile", help="Show onnxruntime's time by operator type as well.")
]


def bench(
    what: WhatArgument,
    runtime: RuntimeOption = None,
    threads: ThreadsOption = 1,
    batch: BatchOption = None,
    rounds: RoundsOption = 20,
    device: DeviceOption = "cpu",
    profile: ProfileOption = False,
    alpha: AlphaOption = 0.5,
    rules: RulesOption = "default",
    weights: WeightsOption = None,
    input: InputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Time models and ONNX files against each other: interleaved rounds, medians, ratios to the first.

    Efficiency is the speed-up over what the MACs promise. The interval is that of the ratio of medians; a
    verdict of faster or slower means that 1 lies outside. Times of a busy machine are noise: look at the
    quartiles, and pin the process (taskset -c 0 octify bench ...). Running a model file runs its code:
    give only files you trust.

    \b
    Examples:
      octify bench dense.onnx octave.onnx --threads 1 --batch 1 --batch 8
      octify bench model.py --alpha 0.5 --runtime onnxruntime --runtime channels-last
      octify bench out --runtime onnxruntime-int8 --runtime openvino
      octify bench out --profile
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        _check(what, alpha, rules, weights, input)
        models, inputs = _contestants(run, what, alpha, rules, weights, input)

        from octify.latency.bench import bench as measure

        result = measure(
            models,
            inputs,
            runtimes=[name.value for name in runtime or ()],
            threads=threads,
            batches=batch or (),
            rounds=rounds,
            profile=profile,
            device=device,
            progress=run.progress,
        )
        run.show(result)
        _warn_of_load(run, threads)
        run.answer(result.to_dict())


def _check(
    what: Sequence[str], alpha: float, rules: str, weights: Path | None, inputs: list[str] | None
) -> None:
    """Validate the options before torch is imported."""
    for each in what:
        if each.endswith(".onnx"):
            if not Path(each).is_file():
                raise OctifyError(f"no such file: {each}", hint="octify export MODEL FILE.onnx writes one")
        elif not Path(each).is_dir():
            check_model(each, weights, inputs)
    if weights is not None and len(what) > 1:
        raise OctifyError(
            "--weights is for a single model", hint=f"octify bench {what[0]} --weights {weights}"
        )
    check_policy(alpha, rules)


def _contestants(
    run: Session,
    what: Sequence[str],
    alpha: float,
    rules: str,
    weights: Path | None,
    shapes: list[str] | None,
) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
    """Return the models by name, and the inputs of the first one that has inputs."""
    models: dict[str, Any] = {}
    inputs: tuple[Tensor, ...] | None = None
    for each in what:
        if each.endswith(".onnx"):
            models[_unique(each, models)] = Path(each)
            continue
        if Path(each).is_dir():
            module, source = load_converted(run, Path(each), None, weights, shapes)
            if len(what) == 1:
                models["original"] = _original(run, source.target, shapes)
        else:
            source = load(run, each, weights, shapes)
            module = source.model
        models[_unique(each, models)] = module
        inputs = inputs or source.example_inputs
        if len(what) == 1 and not Path(each).is_dir():
            models = {"original": module, "octave": _converted(run, module, inputs, alpha, rules)}
    return models, inputs or _inputs_of_files([Path(each) for each in what], shapes)


def _unique(name: str, taken: dict[str, Any]) -> str:
    return name if name not in taken else f"{name} (again)"


def _original(run: Session, target: str, shapes: list[str] | None) -> nn.Module:
    return load(run, target, None, shapes).model


def _converted(
    run: Session, model: nn.Module, inputs: tuple[Tensor, ...], alpha: float, rules: str
) -> nn.Module:
    from octify import api

    result = api.convert(model, inputs, alpha=alpha, rules=rules, progress=run.progress)
    require_converted(result.report)
    return result.model


def _inputs_of_files(files: Sequence[Path], shapes: list[str] | None) -> tuple[Tensor, ...]:
    """Random inputs when only ONNX files are timed: shapes from ``--input``, else from the first file."""
    from octify.latency.runtime import declared_inputs
    from octify.source.inputs import random_inputs

    texts = shapes or declared_inputs(files[0])
    return random_inputs([parse_shape(text) for text in texts], seed=0)


def _warn_of_load(run: Session, threads: int) -> None:
    """Warn about other work on this machine: it adds noise to the times."""
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except OSError:
        return
    if load > cores - threads + 1.5:
        run.warn(f"this machine is busy (load {load:.1f} on {cores} cores): times are noise, ratios less so")
