"""Atomic writing of files and folders: everything is written aside and renamed.

``staged_file`` and ``staged_directory`` hand out a path in a hidden folder near the destination (on the
same file system, so a rename is enough). Only when their block ends well does the result move to its
real name; on an error or Ctrl-C the hidden folder is removed and the destination is as it was. A folder
that exists is exchanged whole (``octify.storage.swap``). Only regular files are ever replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from octify.errors import OctifyError
from octify.storage import leftover, swap
from octify.storage.hold import signals_held

__all__ = [
    "check_directory",
    "check_file",
    "check_package",
    "staged_directory",
    "staged_file",
    "staged_package",
    "write_text",
]

PARTIAL = ".partial"
_KINDS = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def check_file(path: Path) -> None:
    """Check, before any long work, that the file ``path`` can be written. Raises OctifyError."""
    with _converted(path):
        _require_regular(path)
        _remove(*_make_staging(path.absolute().parent, path.name))


def check_directory(path: Path, names: Sequence[str] = ()) -> None:
    """Check, before any long work, that the folder ``path`` and the files ``names`` in it can be written.

    Raises OctifyError if not.
    """
    with _converted(path):
        destination = _resolved(path)
        swap.recover(destination)
        if destination.exists() and not destination.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"it is {_kind(destination)}, not a folder", str(path))
        for name in names:
            _require_regular(destination / name)
        _remove(*_make_staging(destination, path.name))


def check_package(path: Path) -> None:
    """Check that the folder ``path`` can be written whole: nothing is there, or a package of its kind.

    A package is a folder with a ``Manifest.json``. Raises OctifyError if not.
    """
    with _converted(path):
        swap.recover(path.absolute())
        if os.path.lexists(path) and not (path.is_dir() and (path / "Manifest.json").is_file()):
            raise FileExistsError(errno.EEXIST, "what is there is no package", str(path))
        _remove(*_make_staging(path.absolute().parent, path.name))


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the name of ``path``; when the block succeeds it becomes ``path``.

    Files written beside it (ONNX external data) move along, before the file itself.
    """
    parent = path.absolute().parent
    with _staging(path, parent) as folder:
        _require_regular(path)
        staged = folder / path.name
        yield staged
        others = sorted(entry for entry in folder.iterdir() if entry != staged)
        _move_into([*others, staged], parent)


@contextlib.contextmanager
def staged_package(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the name of ``path``; when the block succeeds it takes its place.

    An older package is replaced whole: none of its files is kept.
    """
    check_package(path)
    with _staging(path, path.absolute().parent) as folder:
        staged = folder / path.name
        yield staged
        check_package(path)
        if not path.exists():
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
            staged.rename(path)
            return
        with signals_held():
            if not swap.exchanged(path, staged):
                raise OSError(errno.EPERM, "the package there cannot be replaced", str(path))


@contextlib.contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block succeeds it becomes ``path``.

    Where ``path`` is already a folder, its files of the same names are replaced, all others are kept; at
    every moment ``path`` is the old folder or the new one.
    """
    with _converted(path):
        destination = _resolved(path)
        swap.recover(destination)
    # Beside an existing folder, so that the two can be exchanged.
    with _staging(path, destination, beside=_may_be_exchanged(destination)) as folder:
        yield folder
        entries = sorted(folder.iterdir())
        for entry in entries:
            _require_regular(destination / entry.name)
        if not destination.exists():
            destination.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(destination)
        elif folder.parent != destination.parent or not swap.replaced(destination, folder):
            _move_into(entries, destination)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to the file ``path`` in UTF-8, atomically."""
    with staged_file(path) as staged:
        # Names of files may hold bytes that are not text.
        staged.write_bytes(text.encode("utf-8", "backslashreplace"))


def _resolved(path: Path) -> Path:
    """``path`` without symbolic links; a link to nowhere stays, to be met as what stands in the way."""
    return Path(os.path.realpath(path)) if path.exists() else path.absolute()


def _require_regular(path: Path) -> None:
    """Raise OSError where something other than a file is at ``path``: it would be replaced by one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return  # nothing exists there, or writing will raise
        raise
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(path)}, not a file", str(path))


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    return next((name for test, name in _KINDS if test(mode)), "a file")


def _may_be_exchanged(destination: Path) -> bool:
    """Return whether a folder may be replaced: no mount point, nor around the working directory."""
    if not destination.is_dir() or os.path.ismount(destination):
        return False
    here = Path.cwd()
    return here != destination and destination not in here.parents and os.access(destination.parent, os.W_OK)


@contextlib.contextmanager
def _staging(path: Path, destination: Path, *, beside: bool = False) -> Iterator[Path]:
    """A hidden folder from which a rename reaches the folder ``destination``; gone afterwards."""
    with _converted(path):
        folder, lock = _make_staging(destination.parent if beside else destination, path.name)
        try:
            yield folder
        finally:
            _remove(folder, lock)


def _make_staging(destination: Path, name: str) -> tuple[Path, int | None]:
    """Create a hidden folder in ``destination`` or, while that does not exist, in its nearest ancestor.

    What killed runs left there of the same name is removed. Returns the folder and the lock on it.
    """
    ancestor = destination
    # lexists: a dangling link or a plain file in the way must be met here, not stepped over.
    while not os.path.lexists(ancestor) and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    shortened = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    leftover.clear(ancestor, shortened, PARTIAL)
    while True:
        folder = ancestor / f".{shortened}.{os.urandom(4).hex()}{PARTIAL}"
        folder.mkdir()  # not mkdtemp, whose results only their owner may read
        lock = leftover.locked(folder)
        if folder.exists():  # nobody took it for a leftover before it was locked
            return folder, lock
        leftover.unlocked(lock)


def _remove(folder: Path, lock: int | None) -> None:
    with signals_held():
        shutil.rmtree(folder, ignore_errors=True)
        leftover.unlocked(lock)


def _move_into(entries: list[Path], folder: Path) -> None:
    """Rename ``entries`` into ``folder``, with signals held back so that old and new do not mix."""
    folder.mkdir(parents=True, exist_ok=True)
    with signals_held():
        for entry in entries:
            entry.replace(folder / entry.name)


@contextlib.contextmanager
def _converted(path: Path) -> Iterator[None]:
    """Convert a failure to write ``path`` to an OctifyError; an OSError about other files passes through."""
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
    """True when ``error`` is about writing ``path``: a full disk, the path, a part of it, a staged file."""
    names = [Path(str(name)).absolute() for name in (error.filename, error.filename2) if name is not None]
    staged = any(part.endswith(PARTIAL) for name in names for part in name.parts)
    places = {path, Path(os.path.realpath(path))}
    mine = any(
        name in places or place in name.parents or name in place.parents for name in names for place in places
    )
    return staged or mine or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _obstacle(path: Path) -> str | None:
    """Name the plain file that stands where a folder is needed: the usual reason."""
    for ancestor in path.absolute().parents:
        if os.path.lexists(ancestor):
            return None if ancestor.is_dir() else f"{ancestor} is not a folder"
    return None
