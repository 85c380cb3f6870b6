"""Protection against overwriting: of the files a command reads, and of files of another kind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from octify.artefact import origin as artefact
from octify.errors import OctifyError
from octify.export.formats import files_of, format_of
from octify.files import check_file, check_package
from octify.source import parse_target

Used = Mapping[str, Path]

_CODE = frozenset({".py", ".toml", ".json"})
_TENSORS = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz"})
_IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_READ = _CODE | _TENSORS | _IMAGES


def used(
    target: str | None = None,
    weights: Path | None = None,
    data: str | None = None,
    rules: Iterable[str] = (),
    plan: Path | None = None,
    metric: Path | None = None,
) -> dict[str, Path]:
    """Existing files and folders that a run reads, by their role."""
    reads: list[tuple[str, Path | None]] = [
        ("the weights", weights),
        ("the plan", plan),
        ("the metric", metric),
    ]
    if target is not None:
        reads.append(("the model's source", _source(target)))
    if data is not None and data != "synthetic":
        place, colon, _ = data.rpartition(":")
        reads.append(("the data", Path(place if colon and place.endswith(".py") else data)))
    reads += [(f"the rules {name}", Path(name)) for name in rules if "/" in name or name.endswith(".toml")]
    return {what: path for what, path in reads if path is not None and path.exists()}


def check_files(
    outputs: Mapping[str, Path | None], reads: Used, *, force: bool, folder: Path | None = None
) -> None:
    """Check, before any long work, that files can be written without losing content of another kind.

    Parameters
    ----------
    outputs:
        Paths by option. With ``force`` they may replace any regular file, but nothing else.
    reads:
        Files the run reads, by their role.
    folder:
        Folder to which the run also writes an artefact.
    """
    taken = {} if folder is None else {_real(folder / name): "-o" for name in artefact.FILES}
    for option, path in outputs.items():
        if path is None:
            continue
        check_file(path)
        other = taken.setdefault(_real(path), option)
        if other != option:
            raise OctifyError(f"{option} and {other} name the same file {path}", hint="give another name")
        if folder is not None and _real(path) == _real(folder):
            raise OctifyError(f"{option} and -o name the same path {path}", hint="give another name")
        if not force:
            refuse_read(path, option, reads)
            _refuse_foreign(path, option)


def check_export(file: Path, reads: Used, *, force: bool) -> None:
    """Check, before any long work, that an export may write ``file`` and what belongs to it.

    An older export of the same format is replaced, with its second file; nothing else is without ``force``.
    """
    kind = format_of(file)
    if kind.is_folder:
        check_package(file)
        if not force:
            refuse_read(file, "FILE", reads)
        return
    check_files({"FILE": file}, reads, force=force)
    older = kind.companion is None or _is_ir(file)
    for path in files_of(file)[1:]:
        check_file(path)
        if not force:
            refuse_read(path, "FILE", reads)
    strangers = [path for path in files_of(file) if path.exists()]
    if not force and not older and strangers:
        raise OctifyError(
            f"FILE would overwrite {strangers[0]}",
            why=f"it is no file of {kind.title}" if strangers[0] == file else f"{file} has its weights there",
            hint="give another name, or --force to overwrite it",
        )


def _is_ir(file: Path) -> bool:
    """Return whether ``file`` is the graph of an OpenVINO IR."""
    try:
        with file.open("rb") as opened:
            return b"<net " in opened.read(1024)
    except OSError:
        return False


def refuse_edited(path: Path | None, option: str, *, force: bool) -> None:
    """Raise OctifyError for a file that people may have edited, without ``force``."""
    if path is not None and path.exists() and not force:
        raise OctifyError(
            f"{option} would overwrite {path}",
            why="it exists, and may hold changes that were made by hand",
            hint="give another name, or --force to overwrite it",
        )


def check_folder(folder: Path, names: Sequence[str], reads: Used, *, force: bool) -> None:
    """Raise OctifyError for a folder that cannot be written, is not octify's, or has files the run reads."""
    artefact.check_destination(folder, force=force)
    if not force:
        for name in names:
            refuse_read(folder / name, "-o", reads)


def refuse_read(path: Path, option: str, reads: Used) -> None:
    """Raise OctifyError when the run reads ``path``."""
    for what, place in reads.items():
        inside = place.is_dir() and path.exists() and _real(place) in _real(path).parents
        if _real(path) == _real(place) or inside or _same(path, place):
            raise OctifyError(
                f"{option} would overwrite {path}",
                why=f"it is {what} of this run" if not inside else f"it belongs to {what}, {place}",
                hint="give another name, or --force to overwrite it",
            )


def _refuse_foreign(path: Path, option: str) -> None:
    """Raise OctifyError for an existing file of an artefact, or of a kind that octify reads."""
    if not path.exists():
        return
    if path.name in (*artefact.FILES, *artefact.SWEEPS) and artefact.is_octifys(path.parent):
        why = f"it is a file of the folder {path.parent}, which octify wrote"
    elif path.suffix.lower() in _READ:
        why = f"it is a {path.suffix} file, which {option} does not write"
    else:
        return
    raise OctifyError(
        f"{option} would overwrite {path}", why=why, hint="give another name, or --force to overwrite it"
    )


def _source(target: str) -> Path | None:
    """File of a model, as far as its name tells without any import."""
    parsed = parse_target(target)
    if parsed.kind == "module":
        place = Path(*parsed.place.split("."))
        return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)
    return parsed.path


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
