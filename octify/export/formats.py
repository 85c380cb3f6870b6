"""Files that an export can write, by suffix: what each is called, and the extra of octify that it needs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from octify.errors import OctifyError


@dataclass(frozen=True)
class FileFormat:
    """A kind of exported file.

    key:
        Its name in ``--json``.
    title:
        What a message calls it.
    modules:
        Modules that write and run it; octify's extra of the name ``key`` installs them.
    companion:
        Suffix of a second file that is written beside it.
    is_folder:
        It is a folder of files, replaced whole.
    """

    key: str
    title: str
    modules: tuple[str, ...] = ()
    companion: str | None = None
    is_folder: bool = False

    def check_installed(self) -> None:
        """Raise OctifyError where a package is missing."""
        missing = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if missing:
            raise OctifyError(
                f"{missing[0]} is not installed",
                why=f"it writes {self.title}",
                hint=f"pip install 'octify[{self.key}]'",
            )


ONNX = FileFormat("onnx", "an ONNX file")
FORMATS = {
    ".pt2": FileFormat("program", "a PyTorch program"),
    ".xml": FileFormat("openvino", "an OpenVINO IR", ("openvino",), companion=".bin"),
    ".tflite": FileFormat("litert", "a LiteRT file", ("litert_torch", "ai_edge_litert")),
    ".mlpackage": FileFormat("coreml", "a Core ML package", ("coremltools",), is_folder=True),
    ".pte": FileFormat("executorch", "an ExecuTorch program", ("executorch",)),
}


def format_of(path: Path) -> FileFormat:
    """The kind of file that ``path`` is by its name: an ONNX file but for the suffixes of ``FORMATS``."""
    return FORMATS.get(path.suffix, ONNX)


def files_of(path: Path) -> tuple[Path, ...]:
    """Files and folders that an export to ``path`` writes."""
    companion = format_of(path).companion
    return (path,) if companion is None else (path, path.with_suffix(companion))
