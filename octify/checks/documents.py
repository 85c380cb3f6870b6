"""Reading of text files: rules, plans, reports. Devices and pipes, which may have no end, are refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

_MOST = 2**28  # bytes: the plan of the largest model takes a few MiB


def require_regular(path: Path) -> None:
    """Raise OSError where ``path`` exists and is not a regular file."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def read_text(path: Path) -> str:
    """Read the UTF-8 text of a regular file. Raises OSError, or ValueError if it is not such text."""
    require_regular(path)
    size = path.stat().st_size
    if size > _MOST:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, which is more than octify reads", str(path))
    return path.read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """Parse a JSON document. Raises ValueError if it is invalid, or nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
