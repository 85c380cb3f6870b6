"""Parsing of a MODEL argument: a file, a package or a collection, and a name in it. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from octify.errors import SourceError
from octify.source.arguments import NONE, CallArguments, split_arguments

Kind = Literal["file", "module", "timm", "torchvision", "hf", "ultralytics", "smp", "diffusers", "onnx"]
# Prefixes of a MODEL, each with an example.
PREFIXES: dict[str, tuple[Kind, str]] = {
    "timm": ("timm", "timm:resnet50"),
    "torchvision": ("torchvision", "torchvision:resnet50"),
    "hf": ("hf", "hf:resnet, hf:FOLDER"),
    "ultralytics": ("ultralytics", "ultralytics:yolov8n.yaml"),
    "smp": ("smp", "'smp:Unet(encoder_name=\"resnet34\", classes=2)'"),
    "diffusers": ("diffusers", "diffusers:FOLDER:decoder"),
    "onnx": ("onnx", "onnx:model.onnx"),
}
FORMS = (
    "file.py, file.py:name, pkg.mod:name, timm:name, torchvision:name, hf:name, ultralytics:name.yaml,"
    " smp:name, diffusers:name or onnx:FILE"
)
_CHECKPOINTS = {".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl"}
_PLACES = {"hf", "ultralytics", "diffusers", "onnx"}  # of these, what follows the prefix may be a path
_PARTS = ("decoder", "encoder")


@dataclass(frozen=True)
class ModelSpec:
    """Parsed MODEL.

    place:
        A path, a module's name or a prefix.
    name:
        Object in it. With a prefix: what follows it, without ``arguments``; it may be a path.
    """

    kind: Kind
    place: str
    name: str | None
    arguments: CallArguments = NONE

    @property
    def file(self) -> Path | None:
        """The regular file that is read, when the target names one."""
        path = self.path
        return path if path is not None and (self.kind == "file" or path.is_file()) else None

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine that the target names."""
        if self.kind == "file":
            return Path(self.place)
        if self.kind not in _PLACES or self.name is None:
            return None
        path = Path(self.name if self.kind != "diffusers" else part_of(self.name)[0])
        # A folder that is merely called as a configuration is, "resnet", is none.
        here = path.is_file() or (path / "config.json").is_file()
        return path if self.kind == "onnx" or here else None

    @property
    def short_name(self) -> str:
        """Name that is valid for a file: ``resnet``, ``resnet-Net``, ``resnet50``."""
        name = self.name or ""
        if self.kind == "file":
            parts = [Path(self.place).stem, name]
        elif self.kind == "module":
            parts = [self.place.rpartition(".")[2], name]
        elif self.kind == "diffusers":
            whole, part = part_of(name)
            parts = [Path(whole).resolve().name, part or ""]
        elif self.kind in _PLACES:
            resolved = Path(name).resolve()
            parts = [resolved.stem if resolved.suffix in (".onnx", ".pt", ".yaml", ".yml") else resolved.name]
        else:
            parts = [name]
        return re.sub(r"[^\w.-]+", "-", "-".join(part for part in parts if part))

    def moved(self, path: str) -> str:
        """Text of this target where the file or folder that it names lies at ``path``."""
        if self.kind == "file":
            return f"{path}:{self.name}{self.arguments.text}" if self.name else path
        part = part_of(self.name or "")[1] if self.kind == "diffusers" else None
        return f"{self.kind}:{path}{f':{part}' if part else ''}{self.arguments.text}"


def part_of(name: str) -> tuple[str, str | None]:
    """Split ``NAME:decoder`` of a diffusers target into the name and the part; None where it has none."""
    whole, _, part = name.rpartition(":")
    return (whole, part) if part in _PARTS and whole else (name, None)


def parse_target(text: str) -> ModelSpec:
    """Read a MODEL argument; SourceError when it has no known form or names a file that is not there."""
    if text.endswith(".py"):
        return _file_target(text, None, NONE)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in PREFIXES:
        return _prefixed(prefix, rest)
    head, arguments = split_arguments(text)
    place, colon, name = head.rpartition(":")
    if place.endswith(".py"):
        if not name:
            raise SourceError(f"no name after the colon in {text!r}", hint=f"{place}, or {place}:NAME")
        return _file_target(place, name, arguments)
    if arguments and head.endswith(".py"):
        raise SourceError(
            f"{head} has no arguments, a name in it has", hint=f"{head}:NAME{arguments.text[:80]}"
        )
    if colon and name and all(part.isidentifier() for part in place.split(".")):
        return ModelSpec("module", place, name, arguments)
    raise _unknown(text)


def _prefixed(prefix: str, rest: str) -> ModelSpec:
    kind, example = PREFIXES[prefix]
    if not rest:
        raise SourceError(f"which {prefix} model?", hint=example)
    # A folder called "vae (copy)" has no arguments.
    name, arguments = (rest, NONE) if kind in _PLACES and Path(rest).exists() else split_arguments(rest)
    if not name:
        raise SourceError(f"which {prefix} model?", hint=example)
    if kind in _PLACES and "://" in name:
        raise SourceError(
            f"{prefix}:{name[:200]} is an address",
            why="octify downloads nothing",
            hint=f"download it, then give the path: {prefix}:PATH",
        )
    if kind == "onnx" and not Path(name).is_file():
        path = Path(name)
        raise SourceError(f"no such file: {name}", why=_neighbours(path, ".onnx"), hint="check the path")
    return ModelSpec(kind, prefix, name, arguments)


def _file_target(place: str, name: str | None, arguments: CallArguments) -> ModelSpec:
    path = Path(place)
    if not path.exists():
        raise SourceError(
            f"no such file: {place}", why=_neighbours(path), hint=f"check the path; MODEL is {FORMS}"
        )
    if not path.is_file():
        raise SourceError(f"not a file: {place}", hint=f"MODEL is {FORMS}")
    return ModelSpec("file", place, name, arguments)


def _neighbours(path: Path, suffix: str = ".py") -> str:
    """Similar files in the folder, for a mistyped path."""
    kind = {".py": "Python", ".onnx": "ONNX"}[suffix]
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    files = sorted(entry.name for entry in path.parent.glob(f"*{suffix}"))
    if not files:
        return f"there is no {kind} file in {path.parent.absolute()}"
    more = f" and {len(files) - 8} more" if len(files) > 8 else ""
    return f"the {kind} files in {path.parent.absolute()} are {', '.join(files[:8])}{more}"


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
        return SourceError(f"{text} is an ONNX file", hint=f"onnx:{text} reads it as a model")
    if (path / "config.json").is_file():
        return SourceError(
            f"{text} is a folder with a config.json", hint=f"hf:{text}, or diffusers:{text}:decoder"
        )
    if text in PREFIXES:
        return SourceError(f"which {text} model?", hint=PREFIXES[text][1])
    return SourceError(f"{text!r} does not name a model", hint=f"MODEL is {FORMS}")
