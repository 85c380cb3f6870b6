"""Display of errors: what, where, why, what to type; on one screen, and as JSON under ``--json``."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import TextIO

from octify.checks.printable import printable
from octify.errors import OctifyError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
PIPE_CLOSED = 141  # 128 + SIGPIPE, likewise
INTERNAL = 70  # EX_SOFTWARE: an error of octify itself, told apart from 1 (a check failed) and 2
_MOST_LINES = {"where": 2, "why": 18, "try": 3}
_MOST_COLUMNS = 500
_NAMED = 200  # characters of a path
_REFUSALS = {
    errno.ENAMETOOLONG: "give a shorter name: most systems allow 255 bytes, and 4096 for a whole path",
    errno.ELOOP: "its symbolic links lead in a circle: give another path",
    errno.EACCES: "give a path that you may use",
    errno.EPERM: "give a path that you may use",
    errno.EROFS: "its disk is mounted read-only: give another path",
    errno.ENOSPC: "its disk is full: make room, or give another path",
    errno.EIO: "its disk does not answer: give another path",
}


def render(error: OctifyError, *, color: bool = False) -> str:
    """Format ``error`` as at most 24 lines: the summary, then ``where``, ``why`` and ``try``."""
    head = "\x1b[1;31merror:\x1b[0m" if color else "error:"
    lines = [f"{head} {printable(' '.join(error.what.split()))[:_MOST_COLUMNS]}"]
    for label, text in (("where", error.where), ("why", error.why), ("try", error.hint)):
        if text:
            lines += _section(label, text)
    return "\n".join(lines)


def _section(label: str, text: str) -> list[str]:
    lines = [printable(line.rstrip())[:_MOST_COLUMNS] for line in text.splitlines() if line.strip()]
    most = _MOST_LINES[label]
    if len(lines) > most:
        lines = [*lines[: most - 1], f"... and {len(lines) - most + 1} more lines (--debug shows all)"]
    prefix = f"  {label + ':':<6} "
    return [prefix + lines[0], *(" " * len(prefix) + line for line in lines[1:])] if lines else []


def document(error: OctifyError) -> dict[str, object]:
    """JSON form of ``error``, printed under ``--json`` in place of a result."""
    return {
        "error": {
            "what": error.what,
            "where": error.where,
            "why": error.why,
            "try": error.hint,
            "exit_code": error.exit_code,
        }
    }


def wants_color(stream: TextIO) -> bool:
    """True on a terminal that understands colours and a user who has not set ``NO_COLOR``."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show(error: OctifyError, *, debug: bool) -> None:
    """Print ``error`` on stderr, after its traceback under ``debug``."""
    if debug:
        say(printable("".join(traceback.format_exception(error)).rstrip("\n")))
    say(render(error, color=wants_color(sys.stderr)))


def say(text: str) -> None:
    """Print ``text`` on stderr; a stderr that cannot be written to is ignored."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except (OSError, ValueError):  # ValueError: it was closed
        return


def is_interrupt(error: BaseException | None) -> bool:
    """Return whether an exception stems from a Ctrl-C that the model's code caught (a bare ``except``)."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def forget_stdout() -> None:
    """Discard what stdout still buffers for a pipe without a reader: it must not raise again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.__stdout__.fileno() if sys.__stdout__ else 1)
    os.close(null)


def of_the_system(error: BaseException) -> OctifyError | None:
    """Convert an error of the operating system, which is no bug; None for other errors."""
    if isinstance(error, MemoryError):
        return OctifyError("there is not enough memory", why=str(error) or None, hint="smaller inputs")
    if not isinstance(error, OSError) or error.errno not in _REFUSALS or error.filename is None:
        return None
    return OctifyError(
        f"{str(error.filename)[:_NAMED]} cannot be used",
        why=error.strerror,
        hint=_REFUSALS[error.errno],
    )


def of_models_code(error: BaseException) -> OctifyError:
    """Convert an exception by which the model's code ends the program: ``sys.exit``, or one of its own."""
    frames = traceback.extract_tb(error.__traceback__)
    failure = OctifyError(
        "the model's code ended the program",
        where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None,
        why=f"it raised {type(error).__name__}{f'({error})' if str(error) else ''}",
        hint="raise an ordinary exception there, or none",
    )
    failure.__cause__ = error
    return failure


def of_stdout(error: OSError) -> OctifyError:
    """Convert a failure to write to standard output."""
    return OctifyError("cannot write to standard output", why=error.strerror or str(error))


def internal(error: Exception) -> OctifyError:
    """Convert an unforeseen exception: it is a bug, and this is where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    failure = OctifyError(
        "octify failed in a way it did not foresee: this is a bug in octify",
        where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None,
        why=f"{type(error).__name__}: {error}",
        hint="run it again with --debug, and report the traceback",
    )
    failure.exit_code = INTERNAL
    failure.__cause__ = error
    return failure
