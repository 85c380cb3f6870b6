"""One command line in a forked copy of this process: torch is imported once for all of them."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MEMORY = 8 << 30
_FILE_SIZE = 200 << 20


@dataclass(frozen=True)
class Ended:
    """How a run ended: ``code`` is None where it had to be stopped; negative for a signal."""

    code: int | None
    out: str
    err: str


def run_line(arguments: Sequence[str], world: Path, seconds: float) -> Ended:
    """Run ``octify ARGUMENTS`` in ``world/work`` with nothing of this process's environment in its way."""
    logs = world / "logs"
    logs.mkdir()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads, of which torch has one waiting; the child starts its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_octify(arguments, world)
    code = _waited(child, seconds)
    read = [(logs / name).read_bytes().decode("utf-8", "replace") for name in ("out", "err")]
    return Ended(code, *read)


def _be_octify(arguments: Sequence[str], world: Path) -> None:
    code = 99
    try:
        os.setpgid(0, 0)  # programs that it starts are stopped with it
        os.chdir(world / "work")
        for number, name in enumerate(("in", "out", "err")):
            handle = os.open(world / "logs" / name, os.O_CREAT | os.O_RDWR)
            os.dup2(handle, number)
        for name in ("HOME", "TMPDIR"):
            (world / name).mkdir()
            os.environ[name] = str(world / name)
        os.environ["XDG_CACHE_HOME"] = str(world / "HOME")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_SIZE, _FILE_SIZE))
        code = _call(arguments)
    finally:
        os._exit(code)


def _call(arguments: Sequence[str]) -> int:
    import io
    import tempfile

    from octify.calibrate import recipe
    from octify.calibrate.inputs import few
    from octify.cli.main import main

    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    streams = [
        io.TextIOWrapper(os.fdopen(n, "wb", 0), "utf-8", "backslashreplace", write_through=True)
        for n in (1, 2)
    ]
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = streams
    sys.argv = ["octify", *arguments]
    sys.path[:0] = [""]
    recipe.STEPS = {"standard": 3, "thorough": 3}  # type: ignore[assignment]
    few.ENOUGH = 0
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 98
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _waited(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
