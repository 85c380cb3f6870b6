"""Random crops of photographs that ordinary packages bring; ``photos.txt`` lists them."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LIST = Path(__file__).with_name("photos.txt")
SPLITS = ("calibration", "test", "choose")
_PEOPLE = (
    "227943776_1.jpg",
    "230501201_1.jpg",
    "Tom_Hanks_54745.png",
    "astronaut.png",
    "bus.jpg",
    "mask_white.jpg",
    "newspaper.jpg",
    "person_multi_det.jpg",
    "studentsSample_input.jpg",
    "t1.jpg",
    "zidane.jpg",
)
_LEAST = 150  # photographs of the list that must be there
_SMALL = 160  # pixels on the shorter side
_PAPER = (225, 220, 210, 255)  # behind a thing that is cut out
_AREA = (0.25, 1.0)  # share of the photograph that a crop shows
_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Crops:
    """Images (N, 3, size, size) of RGB values in [0, 1], and the number of the photograph of each."""

    images: Tensor
    photos: tuple[int, ...]


Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def crops(
    split: str, count: int, size: int, *, seed: int = 0, change: Change | None = None, people: int = 1
) -> Crops:
    """``count`` random crops of the photographs of a split: ``"calibration"``, ``"test"`` or ``"choose"``.

    Every photograph belongs to one split and gives as many crops as any other, next to one another; those
    of people, ``people`` times as many. What is chosen by trying is judged on ``"choose"``.
    """
    paths = photos()[split]
    generator = np.random.default_rng([seed, SPLITS.index(split)])
    shares = np.cumsum([people if path.name in _PEOPLE else 1 for path in paths])
    ends = np.round(count * shares / shares[-1])
    images: list[Tensor] = []
    numbers: list[int] = []
    for number, (path, end) in enumerate(zip(paths, ends, strict=True)):
        photo = _opened(path)
        while len(images) < end:
            crop = _crop(photo, size, generator)
            images.append(_tensor(change(crop, generator) if change else crop))
            numbers.append(number)
    return Crops(torch.stack(images), tuple(numbers))


def photos() -> dict[str, tuple[Path, ...]]:
    """The files by split: of every five in the list, two to calibrate, two to test and one to choose with."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    every = list(dict.fromkeys(path for line in lines for path in _files(line)))
    if len(every) < _LEAST:
        raise SystemExit(
            f"only {len(every)} photographs were found: README.md says which packages bring them"
        )
    every.sort(key=lambda path: path.name in _PEOPLE)  # dealt out evenly, too
    turns = ("calibration", "test", "calibration", "test", "choose")
    return {split: tuple(p for i, p in enumerate(every) if turns[i % 5] == split) for split in SPLITS}


def jpeg(quality: int) -> Change:
    """Crops as JPEG gives them back."""

    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return change


def _files(line: str) -> list[Path]:
    if not line or line.startswith("#"):
        return []
    package, _, inside = line.partition(":")
    if not inside:
        every = {path.resolve() for path in Path("/").glob(line[1:])}  # some sizes are links to others
        return sorted(path for path in every if min(Image.open(path).size) >= _SMALL)
    spec = find_spec(package)
    roots = spec.submodule_search_locations if spec is not None else None
    return [path for root in roots or () if (path := Path(root) / inside).exists()]


@functools.lru_cache(2)
def _opened(path: Path) -> Image.Image:
    """The photograph at no more than 1024 pixels on its shorter side."""
    image: Image.Image = Image.open(path)
    image.draft("RGB", (1024, 1024))
    if image.mode == "RGBA":  # a thing that is cut out
        image = Image.alpha_composite(Image.new("RGBA", image.size, _PAPER), image)
    image = image.convert("RGB")
    scale = 1024 / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
    return image


def _crop(photo: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    area = photo.width * photo.height * generator.uniform(*_AREA)
    ratio = math.exp(generator.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
    width = min(photo.width, max(1, round(math.sqrt(area * ratio))))
    height = min(photo.height, max(1, round(math.sqrt(area / ratio))))
    left, top = (int(generator.integers(0, n + 1)) for n in (photo.width - width, photo.height - height))
    box = (left, top, left + width, top + height)
    crop = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop


def _tensor(image: Image.Image) -> Tensor:
    values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()
