"""The ``octify`` command: its subcommands, and the exit code of every way a run can end.

Exit codes: 0 done; 1 octify ran but a check failed (parity, nothing convertible); 2 wrong usage, wrong
input or a model that cannot be traced; 130 interrupted; 70 a bug in octify.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from octify.cli import errors, signals
from octify.cli.commands.bench import bench
from octify.cli.commands.convert import convert
from octify.cli.commands.export import export
from octify.cli.commands.init import init
from octify.cli.commands.inspect import inspect
from octify.cli.commands.report import report
from octify.cli.commands.rules import rules
from octify.cli.commands.run import run
from octify.cli.commands.sensitivity import sensitivity
from octify.cli.commands.sweep import sweep
from octify.cli.commands.tune import tune
from octify.cli.commands.verify import verify
from octify.cli.session import Session
from octify.errors import OctifyError
from octify.storage.hold import Terminated

# Plain help instead of rich's panels: it opens in half the time, and can be piped and searched.
app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"octify {version('octify')}")
        except PackageNotFoundError:
            typer.echo("octify (run from a checkout, not installed)")
        raise typer.Exit(0)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Turn an existing PyTorch CNN into its octave form, check it, and export it.

    Octave convolution keeps a share of every feature map's channels at half resolution, where a
    convolution costs a quarter. MODEL is file.py, file.py:name, pkg.mod:name, timm:name,
    torchvision:name, hf:name, ultralytics:name.yaml, smp:name, diffusers:FOLDER:decoder or onnx:FILE.
    Running a model file runs its code: give only files you trust.

    \b
    Example:
      octify inspect model.py
      octify convert model.py --alpha 0.5 -o out --onnx out/model.onnx
      octify verify timm:resnet26d --alpha 0.25

    \b
    Exit codes: 0 done; 1 octify ran but a check failed (parity, nothing
    convertible); 2 wrong usage, wrong input, or a model that cannot be traced.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


app.command(short_help="Convert a model, report what was won, write it.")(convert)
app.command(short_help="Show what a conversion would do; write nothing.")(inspect)
app.command(short_help="Write a checked ONNX file or PyTorch program.")(export)
app.command(short_help="Train a converted folder further.")(tune)
app.command(short_help="Compare a conversion with its definition.")(verify)
app.command(short_help="Time models and ONNX files against each other.")(bench)
app.command(short_help="Convert at several alphas; a table and a plot.")(sweep)
app.command(short_help="Measure every coupled set: error against MACs.")(sensitivity)
app.command(short_help="Show a report again, on the terminal or as an HTML page.")(report)
app.command(short_help="Write a run file with comments.")(init)
app.command(short_help="Convert, export, bench and report as a run file says.")(run)
app.add_typer(rules, name="rules")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments`` (default: those of the process) and return its exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
        signals.install()
        _prepare_streams()
    try:
        _require_text(arguments)
        code = app(args=list(arguments), prog_name="octify", standalone_mode=False)
        _flush()
        if code == errors.INTERRUPTED:
            return _interrupted()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        errors.forget_stdout()
        return errors.PIPE_CLOSED
    except Exception as error:
        ending = signals.consequence()
        if isinstance(ending, Terminated):
            raise ending from error
        return _interrupted() if ending is not None else _refused(error, arguments)


def _refused(error: Exception, arguments: Sequence[str]) -> int:
    """Report an error outside any command's session; return the exit code."""
    failure = _usage_error(error) or errors.of_the_system(error)
    if isinstance(error, OSError) and error.filename is None and failure is None:
        # Typer's own output, for instance its help.
        errors.forget_stdout()
        failure = errors.of_stdout(error)
    failure = failure or (error if isinstance(error, OctifyError) else errors.internal(error))
    try:
        errors.show(failure, debug="--debug" in arguments)
        wants_json = "--json" in arguments
        Session(sys.stdout, json=wants_json, quiet=False, verbose=False, debug=False).answer(
            errors.document(failure)
        )
        _flush()
    except BrokenPipeError:
        errors.forget_stdout()
        return errors.PIPE_CLOSED
    except OctifyError:
        pass  # standard output cannot be written to, and neither can this
    return failure.exit_code


def _prepare_streams() -> None:
    """Open closed standard streams, and let all of them escape what they cannot encode."""
    signals.open_streams()
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115 - for as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        errors.forget_stdout()
        raise errors.of_stdout(error) from error


def _require_text(arguments: Sequence[str]) -> None:
    """Raise OctifyError for an argument that is not text: not every library accepts such a path."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise OctifyError(
                f"the argument {argument[:200]} holds bytes that are no text",
                why=f"it is not in the encoding of file names here, {sys.getfilesystemencoding()}",
                hint="rename the file or its folder",
            )


def _usage_error(error: Any) -> OctifyError | None:
    """Convert a usage error of typer (its exception classes moved between versions)."""
    if not hasattr(error, "format_message") or not hasattr(error, "show"):
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "octify"
    return OctifyError(str(error.format_message()), hint=f"{command} --help")


def _interrupted() -> int:
    errors.say("interrupted; nothing was left half written")
    return errors.INTERRUPTED


_terminate = signals.terminate
