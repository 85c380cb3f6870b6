"""A signal at a random moment: the output is the old one or the new one, and nothing is left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.cli.judge import Listing, listing
from tests.places import ROOT

_CODES = {signal.SIGINT: (0, 1, 130), signal.SIGTERM: (0, 1, 143)}
_ALONE = ("plan.json", "report.json", "weights.safetensors")


@dataclass(frozen=True)
class Signalled:
    """A run that got a signal."""

    arguments: tuple[str, ...]
    ended: str
    wrong: tuple[str, ...]
    err: str


def interrupted(world: Path, chance: random.Random) -> Signalled:
    """Convert into a folder that is there already, and stop it by a signal."""
    work = world / "work"
    number = chance.choice(sorted(_CODES))
    shutil.rmtree(work)
    shutil.copytree(_template(), work, symlinks=True)
    arguments = (
        "convert",
        "net.py",
        "--rules",
        "everywhere",
        "--alpha",
        "0.25",
        "-o",
        "artefact",
        "--html",
        "outs/old.html",
    )
    before = listing(work)
    new = _finished(world, arguments)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "octify", *arguments],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_signals,
    )
    # Half the time as soon as writing begins, half at any moment.
    if chance.random() < 0.5:
        _until_writing(work, process)
        time.sleep(chance.random() * 0.01)
    else:
        time.sleep(chance.random() * new.seconds * 1.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    shown = f"{process.returncode} after {number.name} at {time.monotonic() - started:.2f} s"
    return Signalled(
        arguments,
        shown,
        tuple(_wrong(process.returncode, number, err, before, listing(work), new.files)),
        err,
    )


@dataclass(frozen=True)
class _New:
    files: Listing
    seconds: float


def _finished(world: Path, arguments: tuple[str, ...]) -> _New:
    """The files that the undisturbed run makes, and how long it takes."""
    other = world / "other"
    shutil.copytree(world / "work", other, symlinks=True)
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "octify", *arguments],
        cwd=other,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        capture_output=True,
    )
    return _New(listing(other), time.monotonic() - started)


def _wrong(
    code: int, number: signal.Signals, err: str, before: Listing, after: Listing, new: Listing
) -> list[str]:
    wrong = []
    # Before Python has handlers, a signal ends the process as it ends any other.
    if code not in (*_CODES[number], -number):
        wrong.append(f"exit code {code} after {number.name}")
    if "Traceback" in err and code != -number and "KeyboardInterrupt" not in err:
        wrong.append("a traceback")
    ages = {
        name: _age(before.get(f"artefact/{name}"), after.get(f"artefact/{name}"), new.get(f"artefact/{name}"))
        for name in _ALONE
    }
    if len({age for age in ages.values() if age != "the same"}) > 1:
        wrong.append(f"old and new are mixed: {ages}")
    wrong += [f"left behind: {name}" for name in after if ".partial" in name]
    wrong += [f"gone: {name}" for name in before if name not in after]
    return wrong


def _age(old: str | None, now: str | None, new: str | None) -> str:
    if old == new:
        return "the same"
    return {old: "old", new: "new"}.get(now, "neither")


def _until_writing(work: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not any(
        ".partial" in path.name for path in (work / "artefact").iterdir()
    ):
        time.sleep(0.0005)


def _template() -> Path:
    from tests.fuzz.cli.world import template

    return template()


def _default_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
