"""Two tasks of 3x32x32 images, made in memory, the same every time: ``load("digits")``, ``load("textures")``.

``digits``: the 1 797 8x8 images of scikit-learn, turned, sheared, scaled, shifted and coloured, over a
cluttered background. ``train``, ``pool``, ``choose`` and ``test`` are made of different ones, several draws
of each. ``textures``: three shapes times six fine textures (stripes of periods 2-3 px and 4-6 px, checkers,
dots, blue and pink noise), so that the high frequencies carry half of the answer.

Values are float32, about zero mean and unit variance: ``(v - 0.5) / 0.25`` of colours ``v`` in [0, 1].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SIDE = 32
CLASSES = {"digits": 10, "textures": 18}
SHAPES = ("disc", "cross", "triangle")
TEXTURES = ("fine stripes", "coarse stripes", "checkers", "dots", "blue noise", "pink noise")

SIZES = {"train": 6000, "pool": 2048, "choose": 900, "test": 2250}  # images
SEEDS = {"train": 10_000, "pool": 1, "choose": 2, "test": 3}


class Labelled(NamedTuple):
    """``images`` (n, 3, 32, 32) float32 and ``labels`` (n,) int64."""

    images: Tensor
    labels: Tensor


class Task(NamedTuple):
    """What a task is made of. No two of the four share an image, nor (digits) the digit it was made from."""

    train: Labelled
    pool: Tensor  # calibration images; nobody needs their labels
    choose: Labelled  # to choose hyper-parameters on
    test: Labelled  # for the figures that are shown, and nothing else


def load(task: str) -> Task:
    """``task``: a key of `CLASSES`."""
    train, pool, choose, test = (split(task, name) for name in ("train", "pool", "choose", "test"))
    return Task(train, pool.images, choose, test)


@functools.lru_cache(maxsize=6)  # of the many training draws, only the latest
def split(task: str, name: str, draw: int = 0) -> Labelled:
    """One split of ``task``. `load` returns the first draw of "train"; training a network takes many."""
    if draw and name != "train":
        raise ValueError(f"only 'train' has several draws, not {name!r}")
    return _MAKERS[task](name, SIZES[name], SEEDS[name] + draw)


# Random numbers and fields --------------------------------------------------------------------------------


def _uniform(n: int, low: float, high: float, g: Generator) -> Tensor:
    """(n, 1, 1), to be broadcast over pixels."""
    return low + (high - low) * torch.rand(n, 1, 1, generator=g)


def _colour(n: int, low: float, high: float, g: Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, 3, 1, 1, generator=g)


def _labels(n: int, classes: int, g: Generator) -> Tensor:
    return torch.arange(n)[torch.randperm(n, generator=g)] % classes


def _pixels() -> tuple[Tensor, Tensor]:
    """Coordinates (32, 32) of the pixels' centres, in pixels from the middle."""
    axis = torch.arange(SIDE) - (SIDE - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _spectral_noise(n: int, slope: Tensor, lowest: float, g: Generator) -> Tensor:
    """(n, 32, 32) noise of unit variance, amplitude ``f ** slope`` from ``lowest`` cycles per pixel up."""
    fy, fx = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)[None]
    f = (fx**2 + fy**2).sqrt()
    shaped = f.clamp(min=1 / SIDE) ** slope * (f >= lowest)
    noise = torch.fft.irfft2(
        torch.fft.rfft2(torch.randn(n, SIDE, SIDE, generator=g)) * shaped, s=(SIDE, SIDE)
    )
    return noise / noise.std((1, 2), keepdim=True)


def _background(n: int, clutter: float, g: Generator) -> Tensor:
    """(n, 3, 32, 32): a colour, pink noise of another colour, and a faint grating of any period."""
    x, y = _pixels()
    noise = _spectral_noise(n, _uniform(n, -2, -0.5, g), 0, g)
    angle, frequency = _uniform(n, 0, math.pi, g), _uniform(n, 0.05, 0.45, g)
    wave = 2 * math.pi * frequency * (x * angle.cos() + y * angle.sin())
    grating = (wave + _uniform(n, 0, 2 * math.pi, g)).cos()
    base = _colour(n, 0.3, 0.7, g)
    return base + clutter * (noise[:, None] * _colour(n, -1, 1, g) + grating[:, None] * _colour(n, -1, 1, g))


def _finished(colours: Tensor, noise: float, g: Generator) -> Tensor:
    sigma = _uniform(len(colours), 0.2 * noise, noise, g)[:, None]
    colours = colours + sigma * torch.randn(colours.shape, generator=g)
    return (colours.clamp(0, 1) - 0.5) / 0.25


# Shapes and textures --------------------------------------------------------------------------------------


def _shape(kind: Tensor, n: int, g: Generator) -> Tensor:
    """(n, 32, 32) in [0, 1]: a shape of 8-12 px radius, turned and shifted, its edge one pixel soft."""
    x, y = _pixels()
    radius, angle = _uniform(n, 8, 12, g), _uniform(n, 0, 2 * math.pi, g)
    dx, dy = x - _uniform(n, -3, 3, g), y - _uniform(n, -3, 3, g)
    u, v = (dx * angle.cos() + dy * angle.sin()) / radius, (dy * angle.cos() - dx * angle.sin()) / radius
    wide, narrow = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    cross = torch.minimum(1 - wide, 0.35 - narrow)
    triangle = torch.stack(
        [u * math.cos(a) + v * math.sin(a) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    ).amax(0)
    # Inside where positive, in radii.
    inside = torch.stack([1 - (u * u + v * v).sqrt(), cross, 0.7 - triangle])
    return torch.sigmoid(3 * radius * inside[kind, torch.arange(n)])


def _texture(kind: Tensor, n: int, g: Generator) -> Tensor:
    """(n, 32, 32), about zero mean and within [-1, 1]."""
    x, y = _pixels()
    angle, share = _uniform(n, 0, math.pi, g), _uniform(n, 0, 1, g)
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    a, b = _uniform(n, 0, 2 * math.pi, g), _uniform(n, 0, 2 * math.pi, g)

    def wave(position: Tensor, shortest: float, longest: float, phase: Tensor) -> Tensor:
        return (2 * math.pi * position / (shortest + (longest - shortest) * share) + phase).cos()

    dots = (wave(along, 4, 6, a) + wave(across, 4, 6, b)) / 2
    fields = [
        wave(along, 2.2, 3.2, a),
        wave(along, 3.8, 6, a),
        torch.tanh(3 * wave(along, 3.5, 6, a) * wave(across, 3.5, 6, b)),
        2 * dots.clamp(min=0) ** 2 - 0.5,
        _spectral_noise(n, _uniform(n, 0, 1, g), 0.15, g).clamp(-2, 2) / 1.5,
        _spectral_noise(n, _uniform(n, -1.5, -0.8, g), 0.06, g).clamp(-2, 2) / 1.5,
    ]
    return torch.stack(fields)[kind, torch.arange(n)]


def _make_textures(_split: str, n: int, seed: int) -> Labelled:
    g = torch.Generator().manual_seed(seed)
    labels = _labels(n, CLASSES["textures"], g)
    shape = _shape(labels // len(TEXTURES), n, g)[:, None]
    texture = _texture(labels % len(TEXTURES), n, g)[:, None]
    tint = F.normalize(torch.randn(n, 3, 1, 1, generator=g), dim=1)
    contrast = _uniform(n, 0.15, 0.4, g)[:, None]
    inside = _colour(n, 0.3, 0.7, g) + contrast * tint * texture
    background = _background(n, 0.05, g)
    return Labelled(_finished(background * (1 - shape) + inside * shape, 0.08, g), labels)


# Digits ---------------------------------------------------------------------------------------------------


@functools.cache
def sources() -> dict[str, tuple[Tensor, Tensor]]:
    """The 8x8 digits behind each split: images (n, 1, 8, 8) in [0, 1] and labels (n,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = order.split([450, 225, 256, len(order) - 931])
    return {
        name: (images[p], labels[p])
        for name, p in zip(("test", "choose", "pool", "train"), parts, strict=True)
    }


def _placed(digits: Tensor, g: Generator) -> Tensor:
    """(n, 1, 8, 8) -> (n, 32, 32): each digit at 19-29 px, turned, sheared and shifted."""
    n = len(digits)
    angle, shear = _uniform(n, -0.4, 0.4, g), _uniform(n, -0.3, 0.3, g)
    wide, high = _uniform(n, 0.6, 0.9, g), _uniform(n, 0.6, 0.9, g)
    c, s = angle.cos(), angle.sin()
    # From a place in the output to one in the digit: the inverse of scale, shear, turn, shift.
    rows = [c / wide + s * shear / wide, s / wide - c * shear / wide, -s / high, c / high]
    matrix = torch.cat(rows, 2).view(n, 2, 2)
    shift = matrix @ torch.cat([_uniform(n, -0.2, 0.2, g), _uniform(n, -0.2, 0.2, g)], 1)
    grid = F.affine_grid(torch.cat([matrix, -shift], 2), [n, 1, SIDE, SIDE], align_corners=False)
    smooth = F.interpolate(digits, size=SIDE, mode="bicubic", align_corners=False).clamp(0, 1)
    return F.grid_sample(smooth, grid, mode="bilinear", align_corners=False)[:, 0]


def _strokes(n: int, count: int, g: Generator) -> Tensor:
    """(n, 32, 32) in [0, 1]: ``count`` short bars anywhere, as thick as a digit's stroke."""
    x, y = _pixels()
    drawn = torch.zeros(n, SIDE, SIDE)
    for _ in range(count):
        dx, dy = x - _uniform(n, -15, 15, g), y - _uniform(n, -15, 15, g)
        angle, half = _uniform(n, 0, math.pi, g), _uniform(n, 2, 5, g)
        along, across = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
        away = ((along.abs() - half).clamp(min=0) ** 2 + across**2).sqrt()
        drawn = torch.maximum(drawn, torch.sigmoid(4 * (1.2 - away)))
    return drawn


def _make_digits(name: str, n: int, seed: int) -> Labelled:
    g = torch.Generator().manual_seed(seed)
    images, labels = sources()[name]
    chosen = torch.arange(n)[torch.randperm(n, generator=g)] % len(labels)
    ink = torch.maximum(_placed(images[chosen], g), _uniform(n, 0.3, 1, g) * _strokes(n, 2, g))[:, None]
    background = _background(n, 0.08, g)
    # The ink is lighter or darker than its background, in a colour of its own.
    sign = torch.where(torch.rand(n, 1, 1, 1, generator=g) < 0.5, -1.0, 1.0)
    strength = sign * _colour(n, 0.2, 0.5, g)
    return Labelled(_finished(background + strength * ink, 0.1, g), labels[chosen])


_MAKERS: dict[str, Callable[[str, int, int], Labelled]] = {"digits": _make_digits, "textures": _make_textures}
