"""Folders of images, read with Pillow: resized, cropped from the centre, normalised."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from octify.data.format import Data, ImageFormat
from octify.errors import OctifyError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
# What is decoded, whatever the name says: of Pillow's other formats, one runs a program it finds (EPS).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_OTHERS = 20_000  # files and folders that are no images, beyond as many as there are images
# What Pillow raises, besides struct.error of headers that end early.
UNREADABLE = (
    *(UnidentifiedImageError, Image.DecompressionBombError, struct.error),
    *(OSError, EOFError, SyntaxError, ValueError),
)
NAMED = 5  # files that are named of those that are left out
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def images(folder: Path, form: ImageFormat) -> Data:
    """Read all images below ``folder``, alternating between its subfolders (classes), in a fixed order.

    An image that cannot be read is named in ``skipped``; OctifyError at the end when none can be.
    """
    paths = listing(folder, form)
    data = Data((), warnings=guesses(form))
    data.inputs = _read_all(paths, form, data)
    return data


def listing(folder: Path, form: ImageFormat) -> list[Path]:
    """List the image files below ``folder`` in the order of ``images``. Raises OctifyError without any."""
    if form.channels not in _MODES:
        raise OctifyError(
            f"images of {form.channels} channels cannot be read from files", hint="give a tensor file"
        )
    paths = _interleaved(folder)
    if not paths:
        raise OctifyError(
            f"there are no images in {folder}",
            why=f"looked for {', '.join(sorted(SUFFIXES))} in it and below",
            hint="give the folder that holds the images",
        )
    return paths


def classes(folder: Path, paths: Sequence[Path]) -> tuple[list[str], list[int]] | None:
    """Class names and the class of every path: the folders directly in ``folder``, sorted by name.

    None where an image lies in ``folder`` itself, or all lie in one subfolder: those are no classes.
    """
    owners = [path.relative_to(folder).parts[0] for path in paths]
    names = sorted(set(owners))
    if len(names) < 2 or any(path.parent == folder for path in paths):
        return None
    number = {name: i for i, name in enumerate(names)}
    return names, [number[owner] for owner in owners]


def guesses(form: ImageFormat) -> list[str]:
    """Warning where mean and standard deviation are assumed."""
    if not form.assumed:
        return []
    return [
        f"pixels were normalised with mean {_listed(form.mean)} and std {_listed(form.std)}, a guess: "
        "give --mean and --std as in training"
    ]


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in values)


def _interleaved(folder: Path) -> list[Path]:
    """Interleave the subfolders, one image each at a time, so that the first few show all classes."""
    by_folder: dict[Path, list[Path]] = {}
    for path in walked(folder):
        by_folder.setdefault(path.parent, []).append(path)
    ranked = [
        (rank, group[0].parent, path) for group in by_folder.values() for rank, path in enumerate(group)
    ]
    return [path for _, _, path in sorted(ranked)]


def walked(folder: Path) -> list[Path]:
    """List the image files below ``folder``, sorted. Links to folders are not followed.

    Raises OctifyError in a folder of too many other files: it is not one of images, and would be read for
    hours.
    """
    paths: list[Path] = []
    others = 0
    for top, folders, names in os.walk(folder):
        mine = [Path(top) / name for name in names if Path(name).suffix.lower() in SUFFIXES]
        paths += [path for path in mine if path.is_file()]
        others += len(names) - len(mine) + len(folders)
        if others > MOST_OTHERS + len(paths):
            raise OctifyError(
                f"{folder} is not a folder of images",
                why=f"of the first {others + len(paths):,} files and folders in it {len(paths):,} are images",
                hint="give the folder that holds the images alone",
            )
    return sorted(paths)


def _read_all(paths: list[Path], form: ImageFormat, data: Data) -> Iterator[Tensor]:
    for path in paths:
        try:
            yield read_image(path, form)
        except UNREADABLE as error:
            data.skipped.append(failure(path, error))
    if len(data.skipped) == len(paths):
        raise OctifyError(
            f"none of the {len(paths)} images can be read",
            why="\n".join(data.skipped[:NAMED]),
            hint="give a folder of images that Pillow reads, or a tensor file",
        )


def failure(path: Path, error: BaseException) -> str:
    """Path, and the first line of the reason why it cannot be read."""
    return f"{path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def read_image(path: Path, form: ImageFormat) -> Tensor:
    """Read one image as an input (C, H, W)."""
    with Image.open(path, formats=FORMATS) as opened:
        image = _converted(opened, _MODES[form.channels])
    width, height = image.size
    scale = max(form.resize / min(width, height), form.crop[1] / width, form.crop[0] / height)
    size = (max(form.crop[1], round(width * scale)), max(form.crop[0], round(height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - form.crop[1]) // 2, (size[1] - form.crop[0]) // 2
    image = image.crop((left, top, left + form.crop[1], top + form.crop[0]))
    pixels = np.asarray(image, dtype=np.float32) / 255
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    pixels = pixels[..., ::-1] if form.bgr else pixels
    normal = (pixels - np.asarray(form.mean, np.float32)) / np.asarray(form.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Convert ``image`` to ``mode``, 8 bits a channel. Raises ValueError if its range is unknown."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # 16 bits, of which Pillow would clip what is above 255.
        high = np.asarray(image).astype(np.int64) / 257  # 65535 becomes 255
        image = Image.fromarray(high.round().astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating point numbers"
        raise ValueError(f"its pixels are {kind} of unknown range: give a tensor file")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of going on from the palette itself
    return image.convert(mode)
