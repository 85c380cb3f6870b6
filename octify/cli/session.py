"""Session of one command: its streams, its progress, its errors and its exit code.

Data goes to stdout, everything else to stderr. While a command works, ``sys.stdout`` is stderr, so that
a model file that prints cannot spoil the data; only a `Session` writes to the real stdout.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import typer

from octify.checks.printable import Printable, printable
from octify.cli import errors, signals
from octify.cli.grouping import grouped
from octify.errors import OctifyError
from octify.storage.hold import Terminated

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_WIDTH_OF_FILES = 160


class Session:
    """Output of a command, at the verbosity of its options."""

    def __init__(self, stdout: TextIO, *, json: bool, quiet: bool, verbose: bool, debug: bool) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.debug = debug
        # Printed by --json beside the error, should the run fail from here on.
        self.partial: dict[str, Any] = {}
        self._answered = False
        self._stdout = stdout
        self._status: Status | None = None
        self._step: tuple[str, float] | None = None

    def show(self, *renderables: Any) -> None:
        """Print data on stdout, except under ``--json`` and ``--quiet``."""
        if self.json or self.quiet:
            return
        self.close()
        for renderable in renderables:
            with _written():
                if isinstance(renderable, str):
                    print(printable(renderable), file=self._stdout)
                else:
                    _console(self._stdout).print(Printable(renderable))

    def answer(self, document: dict[str, Any]) -> None:
        """Print the one JSON document of this run, under ``--json``."""
        if self.json and not self._answered:
            self._answered = True
            with _written():
                print(json.dumps(_finite(document), indent=2), file=self._stdout, flush=True)

    def warn(self, *messages: str) -> None:
        """Print warnings on stderr, except under ``--quiet``."""
        if self.quiet or not messages:
            return
        self.close()
        head = "\x1b[1;33mwarning:\x1b[0m" if errors.wants_color(sys.stderr) else "warning:"
        for message in grouped(messages):
            errors.say(f"{head} {printable(message)}")

    def progress(self, phase: str) -> None:
        """Show that ``phase`` begins: a spinner on a terminal, a line with its time under ``--verbose``."""
        self._finish_step()
        self._step = (phase, time.perf_counter())
        if self.quiet or self.verbose or not sys.stderr.isatty():
            return
        from rich.markup import escape

        shown = escape(printable(phase))
        if self._status is None:
            self._status = _console(sys.stderr).status(shown)
            self._status.start()
        self._status.update(shown)

    def close(self) -> None:
        """End the progress display."""
        self._finish_step()
        self._stop_status()

    def _finish_step(self) -> None:
        if self._step and self.verbose:
            phase, start = self._step
            errors.say(f"{printable(phase)}: {1000 * (time.perf_counter() - start):.0f} ms")
        self._step = None

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


@contextlib.contextmanager
def session(*, json: bool, quiet: bool, verbose: bool, debug: bool) -> Iterator[Session]:
    """Run a command's body; show its errors and turn them into the exit code (a ``typer.Exit``)."""
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")
    running = Session(sys.stdout, json=json, quiet=quiet, verbose=verbose, debug=debug)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
        try:
            yield running
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError as error:
            errors.forget_stdout()
            raise typer.Exit(errors.PIPE_CLOSED) from error
        except Exception as error:
            running.close()
            if errors.is_interrupt(error) and signals.interrupted():
                raise KeyboardInterrupt from error
            ending = signals.consequence()
            if ending is not None:
                raise ending from error
            _fail(running, _of_stdout(error))
        except Terminated:
            raise
        except BaseException as error:  # the model's code may raise anything
            running.close()
            if isinstance(error, KeyboardInterrupt) and signals.interrupted():
                raise
            _fail(running, errors.of_models_code(error))
        finally:
            running.close()


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """Distinguish a failure to write to standard output from failures on other files."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        errors.forget_stdout()
        raise errors.of_stdout(error) from error


def _of_stdout(error: Exception) -> OctifyError:
    if isinstance(error, OctifyError):
        return error
    return errors.of_the_system(error) or errors.internal(error)


def _fail(running: Session, error: OctifyError) -> None:
    errors.show(error, debug=running.debug)
    running.answer(running.partial | errors.document(error))
    raise typer.Exit(error.exit_code) from error


def _finite(value: Any) -> Any:
    """Copy of ``value`` with None for the numbers that JSON lacks: infinities and NaN."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # Off a terminal rich would squeeze tables into 80 columns; files and pipes have room.
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    # Names of modules and files must not be parsed as markup.
    return Console(file=stream, width=_WIDTH_OF_FILES if wide else None, markup=False, emoji=False)
