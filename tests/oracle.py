"""``P``, ``U`` and ``Pi`` written down once more, and how far apart two answers may be.

Nothing here is shared with octify: the tests compare octify with these definitions. Spatial axes
that octave convolution halves are the last two of an image or a video, the last of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# float64 rounds at 1.1e-16 relative. The longest sums here have some 1e4 terms and pass some 30 layers: with
# every error adding up the worst is 1e-16 * 1e4 * 30 = 3e-11. A wrong coefficient shows at 1e-3 and above.
EXACT = 1e-10


def halved(x: Tensor) -> tuple[int, ...]:
    """Dimensions of ``x`` (N, C, *size) that the low branch halves."""
    return tuple(range(max(2, x.ndim - 2), x.ndim))


def P(x: Tensor) -> Tensor:
    """Means of neighbouring pairs along every halved dimension; a last odd sample stands for itself."""
    for dim in halved(x):
        n = x.shape[dim] // 2
        pairs = x.narrow(dim, 0, 2 * n).unflatten(dim, (n, 2)).mean(dim + 1)
        x = torch.cat([pairs, x.narrow(dim, 2 * n, x.shape[dim] - 2 * n)], dim)
    return x


def U(x: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Every sample twice along every halved dimension, cropped to ``size`` (the whole spatial size) if given."""
    for dim in halved(x):
        x = x.repeat_interleave(2, dim)
        if size is not None:
            x = x.narrow(dim, 0, size[dim - 2])
    return x


def projected(x: Tensor, low: Sequence[int]) -> Tensor:
    """``x`` with ``Pi = U P`` on the channels ``low``."""
    y = x.clone()
    y[:, list(low)] = U(P(x[:, list(low)]), x.shape[2:])
    return y


def high_of(channels: int, low: Sequence[int]) -> list[int]:
    """The other channels, ascending."""
    return [c for c in range(channels) if c not in set(low)]


def parted(x: Tensor, low: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
    """The octave value (high, low) that stores ``x`` with ``Pi`` on the channels ``low``."""
    high = high_of(x.shape[1], low)
    return (x[:, high] if high else None), (P(x[:, list(low)]) if low else None)


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value wanted."""
    assert got.shape == wanted.shape, f"{tuple(got.shape)} is not {tuple(wanted.shape)}"
    if not wanted.numel():
        return 0.0
    got, wanted = got.detach(), wanted.detach()
    scale = float(wanted.abs().max()) or 1.0
    return float((got - wanted).abs().max()) / scale


def assert_same(got: Tensor | None, wanted: Tensor | None, tolerance: float = EXACT) -> None:
    """Both absent, or equal to ``tolerance`` relative to the largest value."""
    if wanted is None or got is None:
        assert got is None and wanted is None
        return
    assert error(got, wanted) <= tolerance


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in float64 and eval mode, its norms with statistics and weights that do something."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5 + 0.5)
                if module.running_var is not None:
                    spread = torch.rand(module.running_var.shape, generator=generator)
                    module.running_var.copy_(0.5 + spread)
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Seeded normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
