"""Calibration data named on the command line: folders of images, tensor files, a user's own loader.

``open_data`` determines the form of DATA and returns an iterable of inputs. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octify.data.format import Data, ImageFormat, image_format
from octify.errors import OctifyError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Data", "ImageFormat", "check_data", "image_format", "open_data"]

FORMS = "a folder of images, a .npy, .npz, .safetensors or .pt file, file.py:loader, or the word synthetic"


def check_data(text: str, kind: str = "calibration data") -> None:
    """Validate DATA before any long work; ``kind`` is its name in messages."""
    place, colon, name = text.rpartition(":")
    if text == "synthetic":
        return
    loader = bool(colon) and place.endswith(".py")
    path = Path(place if loader else text)
    if not path.exists():
        raise OctifyError(f"no such {kind}: {text}", hint=f"DATA is {FORMS}")
    if not path.is_file() and (loader or not path.is_dir()):
        what = "a folder" if path.is_dir() else "a device or a pipe"
        raise OctifyError(f"{text} is no {kind}", why=f"{path} is {what}", hint=f"DATA is {FORMS}")
    if path.suffix == ".py" and not (loader and name):
        raise OctifyError(f"which loader in {path}?", hint=f"{path}:loader")


def open_data(text: str, model: nn.Module, shape: Sequence[int], form: ImageFormat | None = None) -> Data:
    """Open the inputs that ``text`` names: one of the forms in ``FORMS``.

    Raises OctifyError for what is not there, is empty, or is in none of these forms.
    """
    from octify.data import files, folder

    check_data(text)
    place, colon, name = text.rpartition(":")
    if colon and place.endswith(".py"):
        return Data(files.items(place, name))
    path = Path(text)
    if path.is_dir():
        chosen = form or image_format(model, shape)
        return folder.images(path, chosen)
    return Data(files.tensors(path, len(shape)))
