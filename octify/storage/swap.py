"""Atomic exchange of two folders: at every moment the path is the old one or the new one, whole.

Linux exchanges two names in one system call (``renameat2`` with ``RENAME_EXCHANGE``), which no signal can
cut in two. Elsewhere the old folder is renamed aside and the new one takes its name; a run that is killed
between the two leaves the old folder, whole, under the name that ``recover`` looks for.
"""

from __future__ import annotations

import glob
import os
import shutil
import stat
import sys
from pathlib import Path

from octify.storage.hold import signals_held

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
_PREVIOUS = ".previous"
_MOST = 10_000  # largest number of entries to keep: octify's folders have fewer


def replaced(folder: Path, new: Path) -> bool:
    """Replace ``folder`` by the folder ``new`` beside it; files that only the old one holds are kept.

    Afterwards ``new`` names the old folder. Returns False, with ``folder`` unchanged, where the system or the
    file system does not support it.
    """
    try:
        if not _takes_over(folder, new):
            return False
        new.chmod(stat.S_IMODE(folder.stat().st_mode))
    except OSError:
        return False
    with signals_held():
        if not exchanged(folder, new):
            return False
        # Files written into the old folder meanwhile.
        for entry in sorted(new.iterdir()) if new.is_dir() else ():
            if not os.path.lexists(folder / entry.name):
                entry.rename(folder / entry.name)
    return True


def exchanged(folder: Path, new: Path) -> bool:
    """Exchange the names of two folders; return False, with both unchanged, where that is not supported."""
    return _exchanged(folder, new) or _renamed(folder, new)


def recover(folder: Path) -> None:
    """Restore the name of ``folder`` after a run was killed while it replaced it."""
    if os.path.lexists(folder) or not folder.parent.is_dir():
        return
    pattern = f".{glob.escape(folder.name)}.*{_PREVIOUS}"
    for place in sorted(folder.parent.glob(pattern)):
        place.rename(folder)
        return


def _takes_over(old: Path, new: Path) -> bool:
    """Link (or copy) the files that only ``old`` holds into ``new``; return whether all were."""
    entries = [entry for entry in old.iterdir() if not os.path.lexists(new / entry.name)]
    # Staging folders of other runs are not kept.
    entries = [entry for entry in entries if not entry.name.endswith(".partial")]
    count = 0
    for entry in entries:
        for top, folders, names in os.walk(entry):
            count += len(folders) + len(names)
            if count > _MOST or os.path.ismount(top):
                return False
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=_linked)
        else:
            _linked(str(entry), str(new / entry.name))
    return True


def _linked(source: str, target: str) -> None:
    """Link a file under a second name, or copy it where links are not supported. Raises OSError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        if not stat.S_ISREG(os.lstat(source).st_mode) and not Path(source).is_symlink():
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _exchanged(a: Path, b: Path) -> bool:
    """Exchange two names in one system call; False where that is not supported."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import ctypes  # for folders that are replaced alone: it takes a while to import

        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library older than 2018
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_EXCHANGE)) == 0)


def _renamed(old: Path, new: Path) -> bool:
    """Rename twice in place of an exchange; ``new`` names the old folder afterwards."""
    aside = old.with_name(f".{old.name}.{os.urandom(4).hex()}{_PREVIOUS}")
    try:
        old.rename(aside)
    except OSError:
        return False
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        return False
    aside.rename(new)
    return True
