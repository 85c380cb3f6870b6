"""Runs the check of every model in a process of its own, with a limit of time and of memory.

The parent imports everything once and forks; it computes nothing itself, so that there are no threads to
lose. Results are appended to a file of one JSON object per line as they come; what is in it is not run again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from tests.zoo.catalogue import Entry, Measured, brief
from tests.zoo.check import Options, Row, check

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Limits:
    """What one model may take; memory beyond what its process was forked with."""

    seconds: float = 120.0
    gib: float = 8.0


class _Memory(NamedTuple):
    """Of a process, in GiB: what lies in memory, and what its private writable mappings could grow to."""

    resident: float
    data: float


@dataclass
class _Running:
    entry: Entry
    options: Options
    process: BaseProcess
    results: Connection
    start: float
    inherited_gib: float


def key(name: str, options: Options, limits: Limits) -> str:
    """Under which a result is kept: the model and everything that was asked."""
    asked = json.dumps([asdict(options), asdict(limits)], sort_keys=True)
    return f"{name} {hashlib.sha256(asked.encode()).hexdigest()[:12]}"


class Store:
    """Finished rows by key, in a file of JSON lines; without a file they are kept nowhere."""

    def __init__(self, path: Path | None, fresh: bool = False) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        elif path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the last line of an interrupted run
                    continue
                self.rows[entry["key"]] = entry["row"]

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep ``row``, on disk at once."""
        self.rows[key] = row
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "row": row}) + "\n")


def run(
    asked: Sequence[tuple[Entry, Options]],
    limits: Limits,
    jobs: int,
    store: Store,
    known: dict[str, Measured],
    tell: Callable[[dict[str, Any], int], None],
) -> list[dict[str, Any]]:
    """The rows of ``asked``, in their order. ``tell`` gets each new row and how many are left."""
    waiting = [
        (entry, options) for entry, options in asked if key(entry.name, options, limits) not in store.rows
    ]
    left = len(waiting)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                entry, options = waiting.pop(0)
                running.append(_started(entry, options, known.get(entry.name), limits))
            for job, row in list(_finished(running, limits)):
                running.remove(job)
                left -= 1
                store.add(key(job.entry.name, job.options, limits), row)
                tell(row, left)
    finally:
        for job in running:
            job.process.kill()
    return [store.rows[key(entry.name, options, limits)] for entry, options in asked]


def _started(entry: Entry, options: Options, known: Measured | None, limits: Limits) -> _Running:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(entry, options, known, limits, send), daemon=True)
    process.start()
    send.close()
    return _Running(entry, options, process, receive, time.monotonic(), _memory_gib(os.getpid()).resident)


def _child(
    entry: Entry, options: Options, known: Measured | None, limits: Limits, results: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's affair
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if sys.platform == "linux":
        most = int((limits.gib + _memory_gib(os.getpid()).data) * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # a burst that the parent does not see
    import warnings

    warnings.simplefilter("ignore")
    try:
        row = check(entry.name, entry.family, options, known)
    except MemoryError as error:
        row = Row(entry.name, entry.family, status="memory", detail=brief(error))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row.peak_gib = round(peak / (2**30 if sys.platform == "darwin" else 2**20), 3)
    results.send(asdict(row))
    results.close()
    os._exit(0)


def _finished(running: Sequence[_Running], limits: Limits) -> Iterator[tuple[_Running, dict[str, Any]]]:
    """Those that ended, or were ended, with their rows; waits a moment."""
    multiprocessing.connection.wait([job.results for job in running], _POLL_SECONDS)
    for job in running:
        row = Row(job.entry.name, job.entry.family)
        if job.results.poll():
            try:
                yield job, job.results.recv()
                job.process.join()
                continue
            except EOFError:
                job.process.join()
                row.status, row.detail = "crashed", _exit(job.process.exitcode)
        elif time.monotonic() - job.start > limits.seconds:
            row.status, row.detail = "timeout", f"more than {limits.seconds:g} s"
        elif _memory_gib(job.process.pid).resident - job.inherited_gib > limits.gib:
            row.status, row.detail = "memory", f"more than {limits.gib:g} GiB resident"
        else:
            continue
        job.process.kill()
        job.process.join()
        row.seconds = {"total": round(time.monotonic() - job.start, 1)}
        yield job, asdict(row)


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


def _memory_gib(pid: int | None) -> _Memory:
    try:
        pages = [int(field) for field in Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()]
    except OSError:  # it has ended, or this system has no /proc
        return _Memory(0.0, 0.0)
    resident, data = (pages[field] * resource.getpagesize() / 2**30 for field in (1, 5))  # proc_pid_statm(5)
    return _Memory(resident, data)
