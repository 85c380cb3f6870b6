"""Text files that octify reads: rules, plans, reports. Never a device or a pipe, which may have no end."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

_MOST = 2**28  # bytes: the plan of the largest model takes a few MiB


def require_regular(path: Path) -> None:
    """Raise OSError where ``path`` is there and is no regular file."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def read_text(path: Path) -> str:
    """The UTF-8 text of a regular file. Raises OSError, or ValueError for what is no such text."""
    require_regular(path)
    size = path.stat().st_size
    if size > _MOST:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, which is more than octify reads", str(path))
    return path.read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """The value of a JSON document. Raises ValueError for what is none, or is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
