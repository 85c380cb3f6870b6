"""More calibration images than there are: shifted, flipped, coloured and blended ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from octify.calibrate.inputs.images import Images
from octify.calibrate.streams.chunks import Chunk
from octify.data.moves import Moves
from octify.trace import Traced

Alteration = Callable[[Sequence[Tensor], torch.Generator], list[Tensor]]  # of a batch, all inputs alike
COPIES = 4
ROWS = 20_000
_COLOURED = 0.5  # of the images
_TURN = 0.6  # standard deviation of the generators of three colours' rotations, in radians


def enlarged(traced: Traced, images: Images, seed: int) -> tuple[Chunk, ...]:
    """The images' chunks and up to three altered copies of them: for least squares, which needs positions.

    A late layer has few positions in an image (49 of 7x7) and many unknowns (4608), so a few hundred
    images are learned by heart. As many copies are made as give the smallest map `ROWS` positions.
    """
    chunks = images.chunks
    if not chunks or chunks[0][0].ndim < 4:
        return chunks
    copies = min(COPIES, -(-ROWS // (images.count * _smallest_map(traced))))
    generator, alter = torch.Generator().manual_seed(seed), alteration(images)
    more = [tuple(alter(chunk, generator)) for _ in range(copies - 1) for chunk in chunks]
    return (*chunks, *more)


def _smallest_map(traced: Traced) -> int:
    """Positions of the smallest map that a convolution makes, of those with more than one."""
    sizes = []
    for node in traced.module.graph.find_nodes(op="call_module"):
        weight = getattr(traced.submodule(node), "weight", None)
        shape = traced.shape(node)
        if isinstance(weight, Tensor) and weight.ndim >= 4 and shape is not None:
            sizes.append(math.prod(shape[2:]))
    return min((size for size in sizes if size > 1), default=1)


def augmented(batch: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """The images shifted by up to an eighth of their size and half of them flipped, all inputs alike.

    Without it a few hundred images are learned by heart.
    """
    images = batch[0]
    if images.ndim < 4:
        return list(batch)
    size = (images.shape[-2], images.shape[-1])
    moves = Moves.drawn(len(images), size, generator)
    return [moves.apply(x) if x.shape[-2:] == size and len(x) == len(images) else x for x in batch]


def alteration(images: Images) -> Alteration:
    """Alterations of copies: moved and, where images were made because there are few or none, coloured."""
    if not images.generated:
        return augmented
    return lambda batch, generator: [with_colours(x, generator) for x in augmented(batch, generator)]


def with_colours(x: Tensor, generator: torch.Generator, share: float = _COLOURED) -> Tensor:
    """A ``share`` of the images (N, C, ...) with their colours turned: C channels times a random rotation.

    64 images of a texture task at alpha .75 end at .31 instead of .35 of output error; 512 of digits at .19
    instead of .18: for few images, or none, only.
    """
    count, channels = x.shape[:2]
    if channels < 2:
        return x
    size = _TURN * math.sqrt(2 / (channels - 1))  # every colour turns by as much as one of three
    a = size * torch.randn(count, channels, channels, generator=generator)
    a = a * (torch.rand(count, generator=generator) < share)[:, None, None]
    rotation = torch.linalg.matrix_exp((a - a.mT).double())
    return torch.bmm(rotation.to(x), x.flatten(2)).reshape(x.shape)


def blended(batch: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Half of the examples with up to half of another one blended in (mixup), all inputs alike.

    For distillation, whose targets are whatever the original makes of that. A batch with an input that is
    not floating point stays as it is.
    """
    if len(batch[0]) < 2 or not all(x.is_floating_point() for x in batch):
        return list(batch)
    count = len(batch[0])
    share = 0.5 * torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) < 0.5)
    other = torch.randperm(count, generator=generator)
    return [_blend(x, x[other.to(x.device)], share.to(x)) for x in batch]


def _blend(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(x, other, share.reshape(-1, *(1,) * (x.ndim - 1)))
