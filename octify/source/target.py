"""Parsing of a MODEL argument: a file, package or zoo, and a name in it. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from octify.errors import SourceError

ZOOS = ("timm", "torchvision")
FORMS = "file.py, file.py:name, pkg.mod:name, timm:name or torchvision:name"
_CHECKPOINTS = {".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl"}


@dataclass(frozen=True)
class ModelSpec:
    """Parsed MODEL. ``place`` is a path, a module name or a zoo; ``name`` an object in it."""

    kind: Literal["file", "module", "timm", "torchvision"]
    place: str
    name: str | None

    @property
    def file(self) -> Path | None:
        """The model file, when the target is one."""
        return Path(self.place) if self.kind == "file" else None

    @property
    def short_name(self) -> str:
        """Name that is valid for a file: ``resnet``, ``resnet-Net``, ``resnet50``."""
        stem = Path(self.place).stem if self.kind == "file" else self.place.rpartition(".")[2]
        parts = [self.name or ""] if self.kind in ZOOS else [stem, self.name or ""]
        return re.sub(r"[^\w.-]+", "-", "-".join(part for part in parts if part))


def parse_target(text: str) -> ModelSpec:
    """Read a MODEL argument; SourceError when it has no known form or names a file that is not there."""
    if text.endswith(".py"):
        return _file_target(text, None)
    place, colon, name = text.rpartition(":")
    if place.endswith(".py"):
        if not name:
            raise SourceError(f"no name after the colon in {text!r}", hint=f"{place}, or {place}:NAME")
        return _file_target(place, name)
    if place in ZOOS and name:
        return ModelSpec("timm" if place == "timm" else "torchvision", place, name)
    if colon and name and all(part.isidentifier() for part in place.split(".")):
        return ModelSpec("module", place, name)
    raise _unknown(text)


def _file_target(place: str, name: str | None) -> ModelSpec:
    path = Path(place)
    if not path.exists():
        raise SourceError(
            f"no such file: {place}", why=_neighbours(path), hint=f"check the path; MODEL is {FORMS}"
        )
    if not path.is_file():
        raise SourceError(f"not a file: {place}", hint=f"MODEL is {FORMS}")
    return ModelSpec("file", place, name)


def _neighbours(path: Path) -> str:
    """Similar files in the folder, for a mistyped path."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    files = sorted(entry.name for entry in path.parent.glob("*.py"))
    if not files:
        return f"there is no Python file in {path.parent.absolute()}"
    more = f" and {len(files) - 8} more" if len(files) > 8 else ""
    return f"the Python files in {path.parent.absolute()} are {', '.join(files[:8])}{more}"


def _unknown(text: str) -> SourceError:
    path = Path(text)
    if (path / "plan.json").is_file():
        return SourceError(
            f"{text} is a converted model, not a model's source",
            hint=f"octify export {text} FILE.onnx, or give the original's source",
        )
    if path.suffix.lower() in _CHECKPOINTS:
        return SourceError(
            f"{text} holds weights, not a model",
            why="octify needs the code that builds the model; a checkpoint has only numbers",
            hint=f"octify ... model.py --weights {text}",
        )
    if path.suffix.lower() == ".onnx":
        return SourceError(
            f"{text} is an ONNX file; octify converts PyTorch models", hint=f"MODEL is {FORMS}"
        )
    if text in ZOOS or text.rstrip(":") in ZOOS:
        return SourceError(f"which {text.rstrip(':')} model?", hint=f"{text.rstrip(':')}:resnet50")
    return SourceError(f"{text!r} does not name a model", hint=f"MODEL is {FORMS}")
