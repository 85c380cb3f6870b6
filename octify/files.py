"""Writing without leaving half of anything: everything is written aside and renamed.

``staged_file`` and ``staged_directory`` hand out a path in a hidden folder near the destination (on the
same file system, so a rename is enough). Only when their block ends well does the result move to its
real name; on an error or Ctrl-C the hidden folder is removed and the destination is as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from octify.errors import OctifyError

__all__ = ["check_directory", "check_file", "staged_directory", "staged_file", "write_text"]


def check_file(path: Path) -> None:
    """Try, before any long work, whether the file ``path`` could be written; OctifyError if not."""
    with _told(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        _remove(_make_staging(path.absolute().parent, path.name))


def check_directory(path: Path) -> None:
    """Try, before any long work, whether the folder ``path`` could be written; OctifyError if not."""
    with _told(path):
        _remove(_make_staging(path.absolute(), path.name))


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the name of ``path``; when the block succeeds it becomes ``path``.

    Files written beside it (ONNX external data) move along, before the file itself.
    """
    parent = path.absolute().parent
    with _staging(path, parent) as folder:
        staged = folder / path.name
        yield staged
        others = sorted(entry for entry in folder.iterdir() if entry != staged)
        _move_into([*others, staged], parent)


@contextlib.contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block succeeds it becomes ``path``.

    Where ``path`` is already a folder, its files of the same names are replaced, all others are kept.
    """
    destination = path.absolute()
    with _staging(path, destination) as folder:
        yield folder
        if destination.exists():
            _move_into(sorted(folder.iterdir()), destination)
        else:
            destination.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(destination)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to the file ``path`` in UTF-8, whole or not at all."""
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _staging(path: Path, destination: Path) -> Iterator[Path]:
    """A hidden folder from which a rename reaches the folder ``destination``; gone afterwards."""
    with _told(path):
        folder = _make_staging(destination, path.name)
        try:
            yield folder
        finally:
            _remove(folder)


def _make_staging(destination: Path, name: str) -> Path:
    """Create a hidden folder in ``destination`` or, while that does not exist, in its nearest ancestor."""
    ancestor = destination
    # lexists: a dangling link or a plain file in the way must be met here, not stepped over.
    while not os.path.lexists(ancestor) and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    folder = ancestor / f".{name}.{os.urandom(4).hex()}.partial"
    folder.mkdir()  # not mkdtemp, whose results only their owner may read
    return folder


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _move_into(entries: list[Path], folder: Path) -> None:
    """Rename ``entries`` into ``folder``, with Ctrl-C held back so that old and new never mix."""
    folder.mkdir(parents=True, exist_ok=True)
    with _interrupts_held():
        for entry in entries:
            entry.replace(folder / entry.name)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let a Ctrl-C inside the block take effect after it (only the main thread receives them)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received and callable(before):
            before(*received[0])


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into an OctifyError; an OSError about other files passes through."""
    try:
        yield
    except OSError as error:
        if not _concerns(error, path.absolute()):
            raise
        raise OctifyError(
            f"cannot write {path}",
            why=_obstacle(path) or error.strerror or str(error),
            hint="give a path in a folder that exists, or can be created, and that you may write to",
        ) from error


def _concerns(error: OSError, path: Path) -> bool:
    """True when ``error`` is about writing ``path``: a full disk, the path, a folder of it, a staged file."""
    names = [Path(str(name)).absolute() for name in (error.filename, error.filename2) if name is not None]
    staged = any(part.endswith(".partial") for name in names for part in name.parts)
    mine = any(name == path or name in path.parents for name in names)
    return staged or mine or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _obstacle(path: Path) -> str | None:
    """Name the plain file that stands where a folder is needed: the usual reason."""
    for ancestor in path.absolute().parents:
        if os.path.lexists(ancestor):
            return None if ancestor.is_dir() else f"{ancestor} is not a folder"
    return None
