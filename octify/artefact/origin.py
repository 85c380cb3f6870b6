"""Identification of folders that octify wrote, and the record of their model's origin."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from octify.artefact.files import PLAN, POINT, REPORT, SOURCE, SWEEP, WEIGHTS
from octify.checks.documents import parse_json, read_text
from octify.errors import OctifyError, SourceError
from octify.files import check_directory
from octify.source import parse_target

FILES = (PLAN, WEIGHTS, REPORT, SOURCE)
SWEEPS = (SWEEP, "sweep.svg", POINT)


@dataclass(frozen=True)
class Origin:
    """Names of an artefact's original and of its weights file on the command line."""

    target: str
    inputs: tuple[str, ...]
    weights: Path | None = None


def is_artefact(folder: Path) -> bool:
    """True for a folder that octify wrote."""
    return (folder / PLAN).is_file()


def is_octifys(folder: Path) -> bool:
    """True for a folder that octify wrote: a conversion, or a sweep of them."""
    return is_artefact(folder) or (folder / SWEEPS[0]).is_file()


def check_destination(folder: Path, *, force: bool) -> None:
    """Raise OctifyError for a folder that cannot be written, or that is not an artefact."""
    check_directory(folder, FILES)
    if not folder.is_dir() or is_artefact(folder) or force:
        return
    entries = sorted(entry.name for entry in folder.iterdir())
    if entries:
        more = f" and {len(entries) - 4} more" if len(entries) > 4 else ""
        raise OctifyError(
            f"{folder} is not empty, and not a folder that octify wrote",
            why=f"it holds {', '.join(entries[:4])}{more}",
            hint="another -o DIR, or --force to write into it (its other files are kept)",
        )


def write_origin(
    staged: Path, final: Path, target: str, weights: Path | None, inputs: Sequence[str] | None
) -> None:
    """Write source.json into ``staged``. Paths are relative to ``final``, so that a project can move."""
    parsed = parse_target(target)
    is_file = parsed.kind == "file"
    document = {
        "target": target,
        "file": _relative(parsed.path, final),
        "name": f"{parsed.name}{parsed.arguments.text}" if is_file and parsed.name else None,
        # Of what lies on this machine: source and rest of the target, around the path.
        "moved": parsed.moved("{}") if parsed.path and not is_file else None,
        "weights": _relative(weights, final),
        "inputs": list(inputs or ()),
    }
    (staged / SOURCE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_origin(folder: Path) -> Origin | None:
    """Read the origin of an artefact; None when it has none. Raises SourceError if it is unreadable."""
    path = folder / SOURCE
    if not path.is_file():
        return None
    try:
        document = parse_json(read_text(path))
        target = str(document["target"])
        if document["file"]:
            place = Path(os.path.relpath(folder / document["file"]))
            target = f"{place}:{document['name']}" if document["name"] else str(place)
            if document.get("moved"):
                target = str(document["moved"]).replace("{}", str(place), 1)
        weights = document.get("weights")
        return Origin(
            target,
            tuple(str(text) for text in document["inputs"]),
            Path(os.path.relpath(folder / weights)) if weights else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} cannot be read",
            why=f"{type(error).__name__}: {error}",
            hint=f"name the original: octify export {folder} FILE.onnx --model MODEL",
        ) from error


def _relative(path: Path | None, folder: Path) -> str | None:
    """``path`` as seen from ``folder``, with forward slashes; absolute across Windows drives."""
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
