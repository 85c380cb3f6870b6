"""What must be true of every run: its exit code, its streams, and the files afterwards."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.fuzz.cli.run import Ended

_OUTPUT_FLAGS = ("-o", "--out", "--onnx", "--html", "--plot", "--csv", "--rules-out")
_MAY_BE_REPLACED = ("outs", "artefact", "out", "new")
_DEFAULT_NAMES = (
    *("-octave", "-tuned", "-sweep", ".checkpoint.safetensors"),
    *("octify.toml", "octify.schema.json"),  # of init
)

Listing = Mapping[str, str]


def listing(folder: Path) -> Listing:
    """Every file under ``folder`` with a digest of what it holds."""
    found = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = Path(root, name)
            digest = "link" if path.is_symlink() else hashlib.sha1(path.read_bytes()).hexdigest()
            found[os.path.relpath(path, folder)] = digest
    return found


def wrong_streams(arguments: Sequence[str], ended: Ended) -> list[str]:
    """What is wrong with the exit code and what was printed."""
    wrong = []
    if ended.code is None:
        return ["it was still running when its time was over"]
    if ended.code not in (0, 1, 2):
        wrong.append(f"exit code {ended.code}")
    if "Traceback (most recent call last)" in ended.err and "--debug" not in arguments:
        wrong.append("a traceback")
    if "\x1b" in ended.out + ended.err:
        wrong.append("a control character on a stream that is no terminal")
    asks_help = any(word in ("-h", "--help", "--version") for word in arguments)
    if "--json" in arguments and not asks_help and ended.code in (0, 1, 2) and not _is_json(ended.out):
        wrong.append("not exactly one JSON document under --json")
    if ended.code == 2 and not ended.err.strip():
        wrong.append("exit code 2 and no message")
    if ended.code == 2 and len(ended.err.splitlines()) > 40 and "--debug" not in arguments:
        wrong.append("a message of more than a screen")
    return wrong


def wrong_files(arguments: Sequence[str], before: Listing, after: Listing, code: int | None) -> list[str]:
    """What is wrong with the files: changed inputs, litter, and files that nobody asked for."""
    named = _outputs(arguments)
    wrong = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            continue
        top = Path(name).parts[0]
        if ".partial" in name:
            wrong.append(f"left behind: {name}")
        elif name not in before and not (_under(name, named) or any(end in top for end in _DEFAULT_NAMES)):
            wrong.append(f"written, though nobody asked for it: {name}")
        elif (
            name in before
            and not (top in _MAY_BE_REPLACED and _under(name, named))
            and "--force" not in arguments
        ):
            wrong.append(f"an input is {'gone' if name not in after else 'changed'}: {name}")
        elif code == 2:
            wrong.append(f"exit code 2, and {name} was written")
    return wrong


def _outputs(arguments: Sequence[str]) -> list[str]:
    """The paths that a command line names as outputs; ``export`` names its file by position."""
    named = [value for flag, value in itertools.pairwise(arguments) if flag in _OUTPUT_FLAGS]
    if arguments[:1] == ["export"]:
        named += [word for word in arguments[2:] if not word.startswith("-")]
    return [os.path.normpath(path) for path in named]


def _under(name: str, outputs: Sequence[str]) -> bool:
    """Whether a file is an output, lies in one, or beside it (data of an ONNX file)."""
    return any(
        name == path or name.startswith((path + os.sep, path + ".")) or path == "." for path in outputs
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
