"""Images made from a network's own BatchNorm statistics, when there is no data.

They start from noise of mixed spectra (amplitude ``f^-u``, u in 0..2), scaled so that the first
BatchNorm's input has the deviation it was trained with, and are then optimised until the
statistics at every BatchNorm match:

    mean over channels of ((mean - running_mean) / deviation)^2 + (std / deviation - 1)^2

(``deviation`` is the square root of ``running_var``). Good to alpha .5, not beyond.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from octify.calibrate.execution import out_of_place
from octify.calibrate.following import is_affine_norm
from octify.calibrate.images import Images, chunk_size, count_of
from octify.calibrate.work import of_run
from octify.errors import OctifyError
from octify.trace import Traced

NO_IMAGES = (
    "synthetic images are made from BatchNorm statistics, and this model has none: it is not calibrated, and"
    " has exact kernels, which err less than the paper's and need more MACs. Give data (--calib FOLDER)"
)
IMAGES = 128
STEPS = 80
ENOUGH = 256  # images, with those kept aside, that no made ones join
AFFORDABLE = 12e12  # multiply-accumulates that joining made images may take: about 2 minutes of two cores
_BATCH = 32
_RATE = 0.05
_RUNS = 3  # of the original, that a step on an image costs


def synthetic_images(
    traced: Traced,
    count: int = IMAGES,
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[tuple[Tensor, ...]]:
    """``count`` images in batches, for a network with one image input and BatchNorm.

    Raises OctifyError when the network has no BatchNorm statistics to make images from, or other inputs.
    """
    module = copy.deepcopy(traced.module).eval().requires_grad_(False)
    dtype = getattr(torch, traced.inputs[0].dtype)
    wide = torch.promote_types(dtype, torch.float32)  # in half precision small gradients vanish
    if wide != dtype:
        module.to(wide)
    norms = _norms(module)
    shape = traced.inputs[0].shape
    if not norms:
        raise OctifyError(
            "synthetic calibration needs BatchNorm layers with running statistics",
            why="images are made so that they reproduce those statistics, and this model has none",
            hint='give data (--calib FOLDER), or use kernels="exact" and a small alpha without calibration',
        )
    if not _makes(traced):
        raise OctifyError(
            "synthetic calibration makes single images",
            why=f"the model takes {len(traced.inputs)} inputs of {shape}",
        )
    generator = torch.Generator().manual_seed(seed)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    batches: list[tuple[Tensor, ...]] = []
    sizes = [min(_BATCH, count - start) for start in range(0, count, _BATCH)]
    with out_of_place(module):
        for i, size in enumerate(sizes):
            start = noise((size, *shape[1:]), generator).to(device, wide)

            def tell(step: int, first: int = i) -> None:
                progress("making images", first * steps + step, len(sizes) * steps)

            batches.append((_optimised(module, norms, start, steps, tell).to(dtype),))
    return batches


def joined_by_made(
    traced: Traced, images: Images, seed: int, progress: Callable[[str, int, int], None]
) -> Images:
    """Few images and, where the network's statistics allow it and it takes minutes, some made from them.

    Where 64 images of a texture task lost 19 points at alpha .75, the same and 192 made ones lost 14.
    """
    affordable = int(AFFORDABLE / max(1, _RUNS * STEPS * of_run(traced, 1)))
    aside = count_of(images.held_out)
    count = min(ENOUGH - images.count - aside, affordable) // _BATCH * _BATCH
    if count <= 0 or not _makes(traced):
        return images
    size = chunk_size(traced)
    made = synthetic_images(traced, count, seed=seed, progress=progress)
    chunks = [tuple(x[i : i + size] for x in batch) for batch in made for i in range(0, _BATCH, size)]
    chunks = [chunk for chunk in chunks if bool(torch.isfinite(chunk[0]).all())]
    found = count_of(chunks)
    told = f"{images.count} images are few: {found} more were made from the network's BatchNorm statistics"
    return replace(images, chunks=(*images.chunks, *chunks), warnings=(*images.warnings, told), made=found)


def _makes(traced: Traced) -> bool:
    shape = traced.inputs[0].shape
    return can_be_made(traced) and len(traced.inputs) == 1 and len(shape) == 4


def can_be_made(traced: Traced) -> bool:
    """Whether the network has BatchNorm statistics, which images are made from."""
    return bool(_norms(traced.module))


def _norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if is_affine_norm(m)]


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise (N, C, H, W) of unit deviation; image n has a spectrum ``f^-u`` with its own u in 0..2."""
    n, _, h, w = shape
    fy = torch.fft.fftfreq(h)[:, None]
    fx = torch.fft.rfftfreq(w)[None, :]
    f = (fy.square() + fx.square()).sqrt().clamp_min(1 / max(h, w))
    u = 2 * torch.rand(n, 1, 1, 1, generator=generator)
    white = torch.fft.rfft2(torch.randn(shape, generator=generator))
    x = torch.fft.irfft2(white * f**-u, s=(h, w))
    x = x - x.mean((2, 3), keepdim=True)
    # Images differ in brightness too, and channels of natural images go together.
    common = x[:, :1]
    x = 0.7 * common + 0.7 * x
    x = x / x.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
    shifted: Tensor = x + 0.5 * torch.randn(n, 1, 1, 1, generator=generator)
    return shifted


class _Statistics:
    """Collects the mismatch at every BatchNorm's input during one forward pass."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.first: tuple[Tensor, Tensor] | None = None

    def hook(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        dims = [0, *range(2, x.ndim)]
        mean, variance = x.mean(dims), x.var(dims, correction=0)
        expected, spread = module.get_buffer("running_mean"), module.get_buffer("running_var")
        deviation = (spread + float(module.eps)).sqrt()  # type: ignore[arg-type]
        std = (variance + float(module.eps)).sqrt()  # type: ignore[arg-type]
        if self.first is None:
            self.first = (deviation.detach(), std.detach())
        self.losses.append((((mean - expected) / deviation).square() + (std / deviation - 1).square()).mean())


def _optimised(
    module: nn.Module, norms: list[nn.Module], start: Tensor, steps: int, tell: Callable[[int], None]
) -> Tensor:
    statistics = _Statistics()
    handles = [norm.register_forward_pre_hook(statistics.hook) for norm in norms]
    try:
        with torch.no_grad():
            module(start)
        if statistics.first is not None:
            deviation, std = statistics.first
            ratio = (deviation / std.clamp_min(1e-12)).median()
            if math.isfinite(float(ratio)) and float(ratio) > 0:
                start = start * ratio
        images = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([images], lr=_RATE * float(start.std()), betas=(0.5, 0.9))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            tell(step)
            statistics.losses.clear()
            module(images)
            loss = torch.stack(statistics.losses).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    finally:
        for handle in handles:
            handle.remove()
    return images.detach()
