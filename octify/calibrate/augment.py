"""More calibration images than there are: shifted and flipped ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from octify.calibrate.images import MEMORY, live_bytes
from octify.trace import Traced

Chunk = tuple[Tensor, ...]
COPIES = 4
ROWS = 20_000
_TOGETHER = 16  # images that are shifted alike


def enlarged(traced: Traced, chunks: Sequence[Chunk], seed: int) -> tuple[Chunk, ...]:
    """``chunks`` and up to three altered copies of them: for least squares, which needs positions.

    A late layer has few positions in an image (49 of 7x7) and many unknowns (4608), so a few hundred
    images are learned by heart. As many copies are made as give the smallest map `ROWS` positions,
    within the memory that `images.gather` keeps to.
    """
    if not chunks or chunks[0][0].ndim < 4:
        return tuple(chunks)
    images = sum(len(chunk[0]) for chunk in chunks)
    most = MEMORY // max(1, 2 * live_bytes(traced)) // images
    copies = min(COPIES, most, -(-ROWS // (images * _smallest_map(traced))))
    generator = torch.Generator().manual_seed(seed)
    more = [_altered(chunk, generator) for _ in range(copies - 1) for chunk in chunks]
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


def _altered(chunk: Chunk, generator: torch.Generator) -> Chunk:
    parts = zip(*(torch.split(x, _TOGETHER) for x in chunk), strict=True)
    return tuple(torch.cat(xs) for xs in zip(*(augmented(part, generator) for part in parts), strict=True))


def augmented(batch: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """The images shifted by up to an eighth of their size and half of them flipped, all inputs alike.

    Without it a few hundred images are learned by heart.
    """
    images = batch[0]
    if images.ndim < 4:
        return list(batch)
    flip = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    reach = [max(1, n // 8) for n in images.shape[-2:]]
    dy, dx = (int(torch.randint(-r, r + 1, (1,), generator=generator)) for r in reach)
    return [_moved(x, flip, dy, dx) if x.shape[-2:] == images.shape[-2:] else x for x in batch]


def _moved(x: Tensor, flip: Tensor, dy: int, dx: int) -> Tensor:
    x = torch.where(flip.reshape(-1, *(1,) * (x.ndim - 1)), x.flip(-1), x)
    pads = [max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)]
    h, w = x.shape[-2:]
    padded = F.pad(x, pads, mode="reflect") if x.ndim == 4 else F.pad(x, pads)
    return padded[..., pads[3] : pads[3] + h, pads[1] : pads[1] + w]
