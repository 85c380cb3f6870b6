"""Reading of the folders that octify wrote: a conversion's report, or a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from octify.artefact.files import BENCH, REPORT, SWEEP
from octify.checks.documents import parse_json, read_text
from octify.errors import SourceError
from octify.latency.rows import LatencyRows
from octify.report.report import Report
from octify.report.rows import Point

T = TypeVar("T")


@dataclass(frozen=True)
class StoredConversion:
    """Report of a conversion, and latencies if the folder has a bench.json. ``document`` is report.json."""

    document: Mapping[str, Any]
    report: Report
    latency: LatencyRows | None


@dataclass(frozen=True)
class StoredSweep:
    """Points of a sweep of the model ``target``. ``document`` is sweep.json."""

    document: Mapping[str, Any]
    target: str
    points: tuple[Point, ...]


def read_stored(folder: Path) -> StoredConversion | StoredSweep:
    """Read ``folder``. Raises SourceError where octify did not write it, or it cannot be read."""
    if (folder / REPORT).is_file():
        document = _object(folder / REPORT)
        report = _checked(folder / REPORT, lambda: Report.from_dict(document))
        return StoredConversion(document, report, _latency(folder / BENCH))
    if (folder / SWEEP).is_file():
        document = _object(folder / SWEEP)
        return _checked(folder / SWEEP, lambda: _sweep(document))
    missing = f"it has neither {REPORT} nor {SWEEP}" if folder.is_dir() else "there is no such folder"
    raise SourceError(
        f"{folder} is not a folder that octify wrote",
        why="it is a file" if folder.is_file() else missing,
        hint=f"octify convert MODEL -o {folder}, or octify sweep MODEL -o {folder}",
    )


def _sweep(document: Mapping[str, Any]) -> StoredSweep:
    return StoredSweep(
        document,
        str(document["source"]["target"]),
        TypeAdapter(tuple[Point, ...]).validate_python(document["points"]),
    )


def _latency(path: Path) -> LatencyRows | None:
    if not path.is_file():
        return None
    document = _object(path)
    return _checked(path, lambda: TypeAdapter(LatencyRows).validate_python(document))


def _object(path: Path) -> Mapping[str, Any]:
    def read() -> Mapping[str, Any]:
        document = parse_json(read_text(path))
        if not isinstance(document, dict):
            raise ValueError("it is not a JSON object")
        return document

    return _checked(path, read)


def _checked(path: Path, read: Callable[[], T]) -> T:
    """Call ``read``; convert its failures to a SourceError that names the file."""
    try:
        return read()
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
    except (KeyError, TypeError) as error:
        why = f"an entry is missing or of the wrong kind: {error}"
    except (OSError, ValueError) as error:
        why = str(error)
    again = "octify bench DIR --json > DIR/bench.json writes it again"
    hint = again if path.name == BENCH else "write it again: octify convert, or octify sweep"
    raise SourceError(f"{path} cannot be read", why=why, hint=hint) from None
