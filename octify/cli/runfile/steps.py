"""Steps of a run file: each is a command line of octify, with the files that it reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octify.artefact import origin as artefact
from octify.artefact.files import BENCH
from octify.cli.runfile.options import Option
from octify.cli.runfile.schema import data_options, step_options
from octify.errors import OctifyError
from octify.export.formats import files_of
from octify.source import parse_target

# Options that name what a step writes; every other option that names a file names what it reads.
WRITTEN = ("out", "onnx", "html", "svg", "file")
# Options of a step that say where it ran, not what came out.
_ELSEWHERE = ("device",)


@dataclass(frozen=True)
class RunStep:
    """A step of a run.

    arguments:
        Its command line, after ``octify``.
    reads:
        Values of its options that may name files or folders; ``data`` those that name data.
    models:
        MODELs whose code it runs; folders and ONNX files among them have none.
    writes:
        Files that it writes, each wherever the option says.
    captured:
        File for what it prints under ``--json``; None lets it print for the user.
    """

    name: str
    arguments: tuple[str, ...]
    writes: tuple[Path, ...]
    reads: tuple[str, ...] = ()
    data: str | None = None
    models: tuple[str, ...] = ()
    captured: Path | None = None
    on_this_machine: bool = False
    identity: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class RunSteps:
    """All steps of a run file, and the folder of the converted model, which keeps the record."""

    folder: Path
    steps: tuple[RunStep, ...]


def plan_run(values: Mapping[str, Any]) -> RunSteps:
    """Plan the steps of a run file that was read. Raises OctifyError for names that clash."""
    model = values["model"]
    convert = dict(values.get("convert", {}))
    name = parse_target(model).short_name
    folder = Path(convert.pop("out", None) or f"{name}-octave")
    data = values.get("data", {})
    steps = [_convert(values, model, folder, data | convert)]
    steps += [_export(model, folder, data, table) for table in values.get("export", ())]
    if "bench" in values:
        steps.append(_bench(model, folder, values["bench"]))
    if "report" in values:
        steps.append(_report(folder, values["report"]))
    taken: dict[Path, str] = {}
    for step in steps:
        for path in step.writes:
            other = taken.setdefault(path, step.name)
            if other != step.name:
                raise OctifyError(
                    f"{other} and {step.name} write the same file {path}", hint="give another name"
                )
    return RunSteps(folder, tuple(steps))


def _convert(values: Mapping[str, Any], model: str, folder: Path, table: Mapping[str, Any]) -> RunStep:
    options = step_options("convert")
    weights, inputs = values.get("weights"), values.get("input", ())
    arguments = ["convert", *([f"--weights={weights}"] if weights else [])]
    arguments += [f"--input={shape}" for shape in inputs]
    arguments += [*_words(options, table), f"--out={folder}", "--", model]
    return RunStep(
        "convert",
        tuple(arguments),
        (*(folder / name for name in artefact.FILES), *_written(table)),
        (*([weights] if weights else []), *_reads(table)),
        table.get("calib"),
        (model,),
        identity=tuple(
            word for word in arguments if not word.startswith(tuple(f"--{n}=" for n in _ELSEWHERE))
        ),
    )


def _export(model: str, folder: Path, data: Mapping[str, Any], table: Mapping[str, Any]) -> RunStep:
    options = step_options("export")
    table = {**data, **table} if table.get("int8") else dict(table)
    if "file" not in table:
        raise OctifyError("an [[export]] has no file", hint='file = "model.onnx"')
    what = str(table.get("what", folder))
    rest = {key: value for key, value in table.items() if key not in ("what", "file")}
    arguments = ("export", *_words(options, rest), "--", what, table["file"])
    return RunStep(
        f"export {table['file']}",
        arguments,
        _written(table),
        (what, *_reads(rest)),
        rest.get("calib"),
        (model, what),
        identity=arguments,
    )


def _bench(model: str, folder: Path, table: Mapping[str, Any]) -> RunStep:
    options = step_options("bench")
    what = [str(each) for each in table.get("what") or [folder]]
    rest = {key: value for key, value in table.items() if key != "what"}
    arguments = ("bench", *_words(options, rest), "--", *what)
    return RunStep(
        "bench",
        arguments,
        (folder / BENCH,),
        (*what, *_reads(rest)),
        None,
        (model, *what),
        captured=folder / BENCH,
        on_this_machine=True,
        identity=arguments,
    )


def _report(folder: Path, table: Mapping[str, Any]) -> RunStep:
    arguments = ("report", *_words(step_options("report"), table), "--", str(folder))
    reads = (str(folder), str(folder / BENCH))
    return RunStep("report", arguments, _written(table), reads, identity=arguments)


def _words(options: Mapping[str, Option], table: Mapping[str, Any]) -> list[str]:
    every = {**data_options(), **options}
    return [word for key, value in table.items() for word in every[key].words(value)]


def _written(table: Mapping[str, Any]) -> tuple[Path, ...]:
    return tuple(file for key in WRITTEN if key in table for file in files_of(Path(table[key])))


def _reads(table: Mapping[str, Any]) -> tuple[str, ...]:
    rest = {key: value for key, value in table.items() if key not in (*WRITTEN, "calib")}
    return tuple(text for value in rest.values() for text in _texts(value))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
