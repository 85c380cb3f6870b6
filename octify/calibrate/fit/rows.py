"""One row of a linear system for each sampled output position: what the paths of a convolution read there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octify.kernels.taps import Path

_MOST_NUMBERS = 150_000_000  # 600 MB of float32


@dataclass(frozen=True)
class Positions:
    """Sampled output positions of one chunk of images: image (R,) and coordinates, one (R,) for each axis."""

    image: Tensor
    at: tuple[Tensor, ...]

    def pick(self, x: Tensor) -> Tensor:
        """The samples (R, C) of ``x`` (N, C, *size)."""
        return x.movedim(1, -1)[(self.image, *self.at)]


def sample(
    images: int, size: Sequence[int], per_image: int, generator: torch.Generator, device: torch.device
) -> Positions:
    """``per_image`` random positions of each image, without replacement; all of them if there are no more."""
    area = 1
    for n in size:
        area *= n
    if per_image >= area:
        flat = torch.arange(area).repeat(images)
    else:
        flat = torch.cat([torch.randperm(area, generator=generator)[:per_image] for _ in range(images)])
    count = min(per_image, area)
    image = torch.arange(images).repeat_interleave(count)
    at: list[Tensor] = []
    for n in reversed(size):
        at.insert(0, (flat % n).to(device))
        flat = flat // n
    return Positions(image.to(device), tuple(at))


def rows_wanted(unknowns: int, groups: int, most: int) -> int:
    """Number of rows to take: ``most``, or fewer where they would not fit in memory."""
    return max(256, min(most, _MOST_NUMBERS // max(1, unknowns * groups)))


def joined(parts: list[Tensor], *, constant: bool = False) -> Tensor:
    """The rows (groups, R, D) of all chunks as one; ``parts`` is emptied on the way: they are there once.

    ``constant``: with a column of ones at the end.
    Half precision becomes float32: sums over thousands of rows would overflow, or lose all digits.
    """
    groups, _, columns = parts[0].shape
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    count = sum(part.shape[1] for part in parts)
    whole = parts[0].new_empty(groups, count, columns + constant, dtype=dtype)
    if constant:
        whole[:, :, -1] = 1
    start = 0
    while parts:
        part = parts.pop(0)
        whole[:, start : start + part.shape[1], :columns] = part
        start += part.shape[1]
        del part
    return whole


def read_taps(x: Tensor, recipe: Path, image: Tensor, at: Sequence[Tensor]) -> Tensor:
    """The samples of ``x`` (N, I, *size) that ``recipe`` reads for outputs ``at``: (R, I, taps)."""
    last = x.movedim(1, -1).contiguous()
    every = itertools.product(*(range(k) for k in recipe.kernel_size))
    return torch.stack([_tap(last, recipe, tap, image, at) for tap in every], dim=-1)


def _tap(last: Tensor, recipe: Path, tap: Sequence[int], image: Tensor, at: Sequence[Tensor]) -> Tensor:
    inside = torch.ones_like(image, dtype=torch.bool)
    places = []
    for axis, m in enumerate(tap):
        if recipe.transposed:
            shifted = at[axis] - recipe.starts[axis] - m
            inside &= shifted % 2 == 0
            p = torch.div(shifted, 2, rounding_mode="floor")
        else:
            p = recipe.strides[axis] * at[axis] + recipe.starts[axis] + recipe.dilations[axis] * m
        n = last.shape[1 + axis]
        inside &= (p >= 0) & (p < n)
        places.append(p.clamp(0, n - 1))
    return last[(image, *places)] * inside[:, None]


def weight_as_rows(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """The weight of a convolution as (groups, I / groups * taps, O / groups)."""
    if transposed:  # (I, O / groups, *taps)
        w = weight.reshape(groups, -1, weight.shape[1], weight[0, 0].numel())
        return w.permute(0, 1, 3, 2).reshape(groups, -1, weight.shape[1])
    w = weight.reshape(groups, weight.shape[0] // groups, -1)
    return w.transpose(1, 2)


def rows_as_weight(rows: Tensor, like: Tensor, transposed: bool) -> Tensor:
    """The inverse of ``weight_as_rows``, in the shape of ``like``."""
    groups = rows.shape[0]
    if transposed:
        w = rows.reshape(groups, -1, like[0, 0].numel(), rows.shape[2]).permute(0, 1, 3, 2)
    else:
        w = rows.transpose(1, 2)
    return w.reshape(like.shape)
