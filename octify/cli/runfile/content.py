"""Digests of what a step depends on: options, versions, files, data and the code of its model."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from octify.artefact import origin as artefact
from octify.cli.runfile.steps import RunStep
from octify.errors import OctifyError, SourceError
from octify.export.formats import format_of
from octify.source import parse_target
from octify.storage.digests import add_file, digest_of_text
from octify.sweeps.content import data_digest, rules_content

_PACKAGES = {
    "timm": "timm",
    "torchvision": "torchvision",
    "hf": "transformers",
    "ultralytics": "ultralytics",
    "smp": "segmentation-models-pytorch",
    "diffusers": "diffusers",
    "onnx": "onnx2torch",
}
_VERSIONS = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "litert-torch",
    "coremltools",
    "executorch",
)
_MOST = 5000  # Python files of a project
_SKIPPED = {"__pycache__", "site-packages", "node_modules"}


def key_of(step: RunStep) -> str:
    """Digest of everything that the outputs of ``step`` follow from."""
    from octify import __version__

    parts = [
        __version__,
        *(_version(name) for name in _VERSIONS),
        repr(step.identity),
        *(f"{text} {_content(text)}" for text in step.reads),
        *(f"{model} {_code(model)}" for model in step.models),
        f"data {_data(step.data)}",
    ]
    if step.on_this_machine:
        parts.append(f"{platform.node()} {platform.machine()} {os.cpu_count()}")
    return digest_of_text("\n".join(parts))


def _data(data: str | None) -> str:
    try:
        return data_digest(data)
    except (OSError, ValueError, OctifyError):  # the step itself tells what is wrong with it
        return "unreadable"


def output_digests(step: RunStep) -> dict[str, str] | None:
    """Digests of the files that ``step`` writes; None where one is missing."""
    paths = [path for each in step.writes for path in (each, each.with_name(each.name + ".data"))]
    required = set(step.writes)
    digests = {}
    for path in paths:
        if path.is_file():
            digests[path.as_posix()] = _digest(path)
        elif path.is_dir() and format_of(path).is_folder:
            files = sorted(each for each in path.rglob("*") if each.is_file())
            digests[path.as_posix()] = _digest_of_files(path, files)
        elif path in required:
            return None
    return digests


def _content(text: str) -> str:
    """Digest of the file or folder that an option's value names; empty where it names none."""
    place, colon, _ = text.rpartition(":")
    path = Path(place if colon and place.endswith(".py") else text)
    try:
        if text.endswith(".toml") and path.is_file():
            return digest_of_text(rules_content(text))
        if path.is_file():
            return _digest(path) + (_code(text) if path.suffix == ".py" else "")
        if path.is_dir():
            names = artefact.FILES if artefact.is_artefact(path) else None
            files = sorted(each for each in path.rglob("*") if each.is_file())
            files = [each for each in files if names is None or (each.parent == path and each.name in names)]
            return _digest_of_files(path, files)
    except (OSError, OctifyError):  # the step itself tells what is wrong with it
        return "unreadable"
    return ""


def _code(target: str) -> str:
    """Digest of the code of a MODEL: the Python files of its project, or the version of its package."""
    if Path(target).is_dir() or (target.endswith(".onnx") and ":" not in target):
        return ""
    try:
        spec = parse_target(target)
    except SourceError:
        return "unreadable"
    if spec.kind == "file":
        folder = Path(spec.place).resolve().parent
        return _digest_of_files(folder, [*_python_files(folder)])
    if spec.kind == "module":
        return _package(spec.place.partition(".")[0])
    path = "" if spec.path is None else _content(str(spec.path))
    return f"{_version(_PACKAGES[spec.kind])} {path}"


def _package(name: str) -> str:
    """Digest of a top-level module's code: its files and, if it lies here, those beside it; or a version."""
    here = Path.cwd()
    sys.path.insert(0, str(here))
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    finally:
        sys.path.remove(str(here))
    if spec is None:
        return name
    places = [Path(each) for each in spec.submodule_search_locations or ()]
    file = Path(spec.origin or "")
    if any("site-packages" in place.parts for place in (file, *places)):
        names = metadata.packages_distributions().get(name, [name])
        return " ".join(_version(each) for each in sorted(names))
    if any(here in place.resolve().parents for place in (file, *places) if place.exists()):
        places = [here]
    if not places:  # a module of the standard library, or a file elsewhere
        return _digest(file) if file.is_file() else f"{name} {platform.python_version()}"
    return " ".join(_digest_of_files(place, [*_python_files(place)]) for place in places)


def _python_files(folder: Path) -> Iterator[Path]:
    """The Python files under ``folder``, but those of virtual environments and hidden folders."""
    count = 0
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(
            each
            for each in folders
            if each not in _SKIPPED
            and not each.startswith(".")
            and not (Path(top, each) / "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            if name.endswith(".py"):
                count += 1
                if count > _MOST:
                    return
                yield Path(top, name)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    add_file(digest, path)
    return digest.hexdigest()


def _digest_of_files(folder: Path, files: list[Path]) -> str:
    digest: Any = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode("utf-8", "replace"))
        add_file(digest, path)
    return str(digest.hexdigest())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
