"""Images made from a network's own BatchNorm statistics, when there is no data.

They start from noise of mixed spectra (amplitude ``f^-u``, u in 0..2), scaled so that the first
BatchNorm's input has the deviation it was trained with, and are then optimised until the
statistics at every BatchNorm, of all images together, match:

    mean over channels of ((mean - running_mean) / deviation)^2 + (std / deviation - 1)^2

(``deviation`` is the square root of ``running_var``). Good to alpha .5, not beyond.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from octify.calibrate.streams.execution import out_of_place
from octify.calibrate.streams.sizes import gradient_batch
from octify.data.moves import Moves
from octify.errors import OctifyError
from octify.trace import Traced
from octify.trace.batchnorm import is_affine_norm

NO_IMAGES = (
    "synthetic images are made from BatchNorm statistics, and this model has none: it is not calibrated, and"
    " has exact kernels, which err less than the paper's and need more MACs. Give data (--calib FOLDER)"
)
IMAGES = 128
STEPS = 80
RATE = 0.3  # of the images' deviation; 0.2 and 0.4 are alike, 0.05 stays near noise, 0.8 is too coarse


def synthetic_images(
    traced: Traced,
    count: int = IMAGES,
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    start: Tensor | None = None,
    rate: float = RATE,
) -> list[tuple[Tensor, ...]]:
    """``count`` images in batches, for a network with one image input and BatchNorm.

    Parameters
    ----------
    start:
        (count, C, H, W), from which the images are optimised; without it, noise.
    rate:
        Adam's first, of the start's deviation.

    Raises OctifyError when the network has no BatchNorm statistics to make images from, or other inputs.
    """
    # In float32 whatever the model's: in half precision small gradients vanish, and double finds no better.
    module = copy.deepcopy(traced.module).eval().requires_grad_(False).float()
    norms = _norms(module)
    shape = traced.inputs[0].shape
    if not norms:
        raise OctifyError(
            "synthetic calibration needs BatchNorm layers with running statistics",
            why="images are made so that they reproduce those statistics, and this model has none",
            hint='give data (--calib FOLDER), or use kernels="exact" and a small alpha without calibration',
        )
    if not makes_single(traced):
        raise OctifyError(
            "synthetic calibration makes single images",
            why=f"the model takes {len(traced.inputs)} inputs of {shape}",
        )
    generator = torch.Generator().manual_seed(seed)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    if start is None:
        start = noise((count, *shape[1:]), generator)
    with out_of_place(module), _Watched(module, norms) as watched:
        groups = torch.split(start.to(device, torch.float32), gradient_batch(traced))
        optimised = _optimised(watched, groups, steps, rate, generator, progress)
    return [(group.to(getattr(torch, traced.inputs[0].dtype)),) for group in optimised]


def makes_single(traced: Traced) -> bool:
    """Return whether ``synthetic_images`` supports the network."""
    shape = traced.inputs[0].shape
    return can_be_made(traced) and len(traced.inputs) == 1 and len(shape) == 4


def can_be_made(traced: Traced) -> bool:
    """Return whether the network has BatchNorm statistics to generate images from."""
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


class _Watched:
    """A network and the moments at every BatchNorm's input, in the order of execution.

    In units of what the BatchNorm was trained with: ``(x - running_mean) / deviation``.
    """

    def __init__(self, module: nn.Module, norms: Sequence[nn.Module]) -> None:
        self._module, self._norms = module, norms
        self._moments: list[Tensor] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Watched:
        self._handles = [norm.register_forward_pre_hook(self._hook) for norm in self._norms]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        shape = (-1, *(1,) * (x.ndim - 2))
        variance, eps = norm.get_buffer("running_var"), float(norm.eps)  # type: ignore[arg-type]
        deviation = (variance + eps).sqrt()
        apart = (x - norm.get_buffer("running_mean").view(shape)) / deviation.view(shape)
        dims = [0, *range(2, x.ndim)]
        moments = [apart.mean(dims), apart.square().mean(dims), eps / deviation.square()]
        self._moments.append(torch.stack(moments))

    def moments(self, images: Tensor) -> list[Tensor]:
        """Means, mean squares and eps (3, C) of ``images`` (N, C, H, W) at every BatchNorm."""
        self._moments.clear()
        self._module(images)
        return list(self._moments)


def _deviation(moments: Tensor) -> Tensor:
    """The deviation (C,) that a BatchNorm with these moments would divide by."""
    mean, square, eps = moments
    deviation: Tensor = (square - mean.square() + eps).clamp_min(1e-12).sqrt()
    return deviation


def _mismatch(moments: Tensor) -> Tensor:
    """Mismatch at one BatchNorm, zero when its mean is 0 and its deviation 1 in the units of the moments."""
    return (moments[0].square() + (_deviation(moments) - 1).square()).mean()


def _optimised(
    watched: _Watched,
    start: Sequence[Tensor],
    steps: int,
    rate: float,
    generator: torch.Generator,
    progress: Callable[[str, int, int], None],
) -> list[Tensor]:
    """Groups of images, each as many as gradients are followed through at a time.

    The moments that are to match are those of all groups together: alone, 32 images would each have to be
    an average one (they err by a third more than as many of 128). Every look at an image is at a moved one.
    """
    groups = [group.clone().requires_grad_() for group in _scaled(watched, start)]
    size_of_step = rate * float(torch.cat(groups).detach().std())
    optimizer = torch.optim.Adam(groups, lr=size_of_step, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    latest: dict[int, list[Tensor]] = {}
    for step in range(steps):
        for i, group in enumerate(groups):
            progress("making images", step * len(groups) + i, steps * len(groups))
            size = (group.shape[-2], group.shape[-1])
            own = watched.moments(Moves.drawn(len(group), size, generator).apply(group))
            latest[i] = own
            together = _together(list(latest.values()), groups)
            loss = torch.stack([_mismatch(moments) for moments in together]).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            latest[i] = [moments.detach() for moments in own]
        schedule.step()
    return [group.detach() for group in groups]


def _together(moments: Sequence[Sequence[Tensor]], groups: Sequence[Tensor]) -> list[Tensor]:
    """Moments of the first groups at every BatchNorm, of all their images."""
    counts = [len(group) for group in groups[: len(moments)]]
    shares = [count / sum(counts) for count in counts]
    return [
        torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(0)
        for parts in zip(*moments, strict=True)
    ]


@torch.no_grad()
def _scaled(watched: _Watched, start: Sequence[Tensor]) -> list[Tensor]:
    """The images, so that the first BatchNorm's input has about the deviation it was trained with."""
    moments = [watched.moments(group) for group in start]
    ratio = float((1 / _deviation(_together(moments, start)[0])).median())
    return [group * ratio if math.isfinite(ratio) and ratio > 0 else group for group in start]
