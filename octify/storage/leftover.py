"""Staging folders that a killed run left behind: the next run that writes there removes them.

A run holds a lock on its staging folder, which the system lets go when the run ends, however it ends. A
folder of such a name that nobody has locked is a leftover.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import sys
from pathlib import Path

if sys.platform != "win32":  # leftovers stay there
    import fcntl

_TOKEN = re.compile(r"\.[0-9a-f]{8}")


def locked(folder: Path) -> int | None:
    """Lock ``folder``; return the descriptor that holds the lock, None where that is not supported."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def unlocked(descriptor: int | None) -> None:
    """Let a lock go."""
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def clear(parent: Path, name: str, suffix: str) -> None:
    """Remove the folders ``.NAME.TOKEN.suffix`` in ``parent`` that no run has locked.

    Nothing else is touched: no file, no link, no folder of another owner or of another name.
    """
    for place in parent.glob(f".{glob.escape(name)}.*{suffix}"):
        token = place.name[len(name) + 1 : -len(suffix)]
        if not _TOKEN.fullmatch(token) or place.is_symlink() or not _is_ours(place):
            continue
        descriptor = locked(place)
        if descriptor is not None:
            shutil.rmtree(place, ignore_errors=True)
            unlocked(descriptor)


def _is_ours(folder: Path) -> bool:
    try:
        return folder.is_dir() and folder.stat().st_uid == os.getuid()
    except (OSError, AttributeError):
        return False
