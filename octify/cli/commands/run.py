"""``octify run``: convert, export, bench and report one model, as a run file says."""

from __future__ import annotations

import contextlib
import io
import json as json_module
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.cli.options.shared import (
    RUNS_CODE,
    DebugOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    VerboseOption,
)
from octify.cli.session import Session, session
from octify.files import write_text

if TYPE_CHECKING:
    from octify.cli.runfile.steps import RunStep, RunSteps

NAME = "octify.toml"
FileArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help=f"The run file; octify init MODEL writes one. Its model is loaded. {RUNS_CODE}"
    ),
]
AgainOption = Annotated[
    bool,
    typer.Option("--again", help="Run every step, also those whose inputs and options have not changed."),
]
ListOption = Annotated[
    bool, typer.Option("--list", help="Print the command line of each step, and run nothing.")
]


def run(
    file: FileArgument = Path(NAME),
    again: AgainOption = False,
    list_: ListOption = False,
    force: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Convert, export, bench and report one model, as a run file says; skip the steps that are done.

    Paths in the file are relative to it. Each step is a command of octify (--list prints them); a step whose
    model, weights, data, options and results are as they were is skipped. Running a model file runs its code:
    give only files you trust.

    \b
    Examples:
      octify init model.py
      octify run
      octify run configs/octify.toml --again
      octify run --list
    """
    options = {"json": json, "quiet": quiet, "verbose": verbose, "debug": debug}
    extra = [f"--{name}" for name, value in {**options, "force": force}.items() if value and name != "json"]
    with session(**options):
        from octify.cli.runfile.read import read_run_file
        from octify.cli.runfile.steps import plan_run

        values = read_run_file(file)
        with _inside(file.parent):
            plan = plan_run(values)
            reported = _listed(plan) if list_ else None
    if reported is not None:
        with session(**options) as talk:
            talk.show(*reported)
            talk.answer({"steps": reported})
        return
    with _inside(file.parent):
        documents = _run_steps(plan, extra, options, again=again)
    with session(**options) as talk:
        talk.answer({"steps": documents})


def _listed(plan: RunSteps) -> list[str]:
    lines = []
    for step in plan.steps:
        name, *words = step.arguments
        if step.captured is None:
            lines.append(f"octify {shlex.join(step.arguments)}")
        else:
            lines.append(f"octify {shlex.join([name, '--json', *words])} > {shlex.quote(str(step.captured))}")
    return lines


def _run_steps(plan: RunSteps, extra: list[str], options: dict[str, bool], *, again: bool) -> list[Any]:
    """Run the steps that are not done; return what each printed as JSON, where that was asked for."""
    from octify.cli.runfile.content import key_of
    from octify.cli.runfile.record import read_record

    record = read_record(plan.folder)
    documents: list[Any] = []
    for number, step in enumerate(plan.steps, start=1):
        place = f"{number}/{len(plan.steps)}"
        with session(**options) as talk:
            talk.progress(f"looking at the inputs of {step.name}")
            key = key_of(step)
            skipped = not again and record.is_current(step, key)
            if skipped:
                talk.show(f"{place} skipped {step.name}: its inputs, options and results have not changed")
            else:
                talk.show(f"{place} octify {shlex.join(step.arguments)}")
        if skipped:
            documents.append({"step": step.name, "skipped": True})
            continue
        code, document = _call(step, extra, as_json=options["json"] or step.captured is not None)
        documents.append({"step": step.name, "skipped": False, "result": document})
        if code:
            with session(**options) as talk:
                talk.answer(
                    {"steps": documents, **({"error": document["error"]} if "error" in document else {})}
                )
            raise typer.Exit(code)
        with session(**options) as talk:
            _finish(talk, step, document, plan)
            record = record.with_step(step, key)
    return documents


def _call(step: RunStep, extra: list[str], *, as_json: bool) -> tuple[int, Any]:
    """Run a step as its command line would; return its exit code and, under ``as_json``, what it printed."""
    from octify.cli.runfile.schema import COMMANDS

    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(COMMANDS[step.arguments[0]])
    taken = extra if step.arguments[0] != "bench" else [each for each in extra if each != "--force"]
    # Before the arguments that follow "--".
    words = [*taken, *(["--json"] if as_json else []), *step.arguments[1:]]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed) if as_json else contextlib.nullcontext():
        code = command(args=words, prog_name=f"octify {step.arguments[0]}", standalone_mode=False)
    text = printed.getvalue()
    return (code if isinstance(code, int) else 0), (json_module.loads(text) if text.strip() else {})


def _finish(talk: Session, step: RunStep, document: Any, plan: RunSteps) -> None:
    """Write what a step printed to the file that keeps it, and show it."""
    if step.captured is None:
        return
    write_text(step.captured, json_module.dumps(document, indent=1) + "\n")
    from octify.artefact.stored import StoredConversion, read_stored
    from octify.latency.rows import render_latency

    stored = read_stored(plan.folder)
    if isinstance(stored, StoredConversion) and stored.latency is not None:
        talk.show(*render_latency(stored.latency))
    talk.show(f"wrote {step.captured}")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Run the block in ``folder``: paths of a run file are relative to it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
