"""Few images are joined by made ones: copies, altered beyond recognition and optimised to fit the network.

A copy is shifted, turned by any angle, enlarged or reduced, gets other colours, and is then optimised like
a synthetic image. With 64 images of a texture task at alpha .75 (output error of a ResNet .35 with made
images that start from noise) such copies ended at .29; blends of two images, not turned, at .30.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from octify.calibrate.inputs.augment import with_colours
from octify.calibrate.inputs.images import Images, count_of
from octify.calibrate.inputs.synthetic import STEPS, makes_single, synthetic_images
from octify.calibrate.streams.clock import Clock
from octify.calibrate.streams.sizes import chunk_size
from octify.data.moves import Moves
from octify.trace import Traced

ENOUGH = 256  # images, with those kept aside, that no made ones join
SECONDS = 120.0  # that joining made images may take (``Clock``)
_LEAST = 32  # fewer do not join
_RUNS = 3  # of the original, that a step on an image costs
_TIMED = 4  # images
_RATE = 0.1  # they start nearer to their end than noise does
_ZOOM = 1.5  # natural logarithm of the most that copies are enlarged, or reduced, by


def joined_by_made(
    traced: Traced, images: Images, seed: int, progress: Callable[[str, int, int], None]
) -> Images:
    """Few images and, where the network's statistics allow it and it takes minutes, some made from them."""
    shortage = (ENOUGH - images.count - count_of(images.held_out)) // _LEAST * _LEAST
    if shortage <= 0 or not makes_single(traced):
        return images
    affordable = int(SECONDS / (_RUNS * STEPS * _seconds(traced, images)))
    count = min(shortage, affordable // _LEAST * _LEAST)
    if count <= 0:
        return images
    start, size = _copies(traced, images, count, seed), chunk_size(traced)
    generated = synthetic_images(traced, count, seed=seed, progress=progress, start=start, rate=_RATE)
    chunks = [
        (part,)
        for (batch,) in generated
        for part in torch.split(batch, size)
        if bool(torch.isfinite(part).all())
    ]
    extra = count_of(chunks)
    warning = (
        f"{images.count} images are few: {extra} more were made from them and the network's BatchNorm"
        " statistics"
    )
    return replace(
        images, chunks=(*images.chunks, *chunks), warnings=(*images.warnings, warning), generated=extra
    )


@torch.no_grad()
def _seconds(traced: Traced, images: Images) -> float:
    """Time in seconds that the original takes for an image."""
    some = [x[:_TIMED] for x in images.chunks[0]]
    training = traced.module.training
    traced.module.eval()
    traced.module(*some)  # the first run prepares
    clock = Clock(traced.module)
    traced.module(*some)
    seconds = clock.seconds()
    traced.module.train(training)
    return seconds / len(some[0])


def _copies(traced: Traced, images: Images, count: int, seed: int) -> Tensor | None:
    """``count`` altered images (count, C, H, W) of the example's size; None if none of the images has it."""
    size = traced.inputs[0].shape[1:]
    own = [chunk[0] for chunk in images.chunks if chunk[0].shape[1:] == size]
    if not own:
        return None
    generator = torch.Generator().manual_seed(seed)
    originals = torch.cat(own).float()
    picked = originals[torch.randint(0, len(originals), (count,), generator=generator).to(originals.device)]
    moved = Moves.drawn(count, (size[-2], size[-1]), generator).apply(picked)
    return turned(with_colours(moved, generator, share=1.0), generator)


def turned(x: Tensor, generator: Generator) -> Tensor:
    """Images (N, C, H, W) turned by any angle and zoomed by up to ``exp(1.5)`` either way, mirrored beyond
    the border.
    """
    angle = 2 * math.pi * torch.rand(len(x), generator=generator)
    scale = torch.exp(_ZOOM * (2 * torch.rand(len(x), generator=generator) - 1))
    cos, sin, none = angle.cos() / scale, angle.sin() / scale, torch.zeros(len(x))
    matrix = torch.stack([cos, -sin, none, sin, cos, none], dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(matrix.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
