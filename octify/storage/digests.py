"""Digests (SHA-256, in hexadecimal) of what a stored result follows from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BLOCK = 2**20


def digest_of_text(text: str) -> str:
    """A digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: Path | None) -> str:
    """A digest of a file's bytes; that of nothing for None."""
    digest = hashlib.sha256()
    if path is not None:
        add_file(digest, path)
    return digest.hexdigest()


def add_file(digest: Any, path: Path) -> None:
    """Add a file's bytes to a digest of ``hashlib``."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)


def digest_of_state(state: Mapping[str, Any], before: str = "") -> str:
    """A digest of the text ``before`` and a state dict: names, dtypes, shapes and numbers, in its order."""
    from safetensors.torch import save as as_safetensors

    digest = hashlib.sha256(before.encode())
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(as_safetensors({"": value.detach().cpu().contiguous().clone()}))
    return digest.hexdigest()
