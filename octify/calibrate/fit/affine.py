"""A convolution and the BatchNorm behind it as one affine map, read and written back.

Written back so that the BatchNorm stays what it is in training too: its running statistics are
those of the new convolution's output, its weight and bias reproduce the fitted mean and deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SMALLEST_SCALE = 1e-4


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift`` per channel, (C,) each."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of_norm(cls, norm: nn.Module) -> Affine:
        """A BatchNorm in eval mode."""
        mean = norm.get_buffer("running_mean")
        return cls(*scale_and_shift(norm, len(mean), mean))

    def after(self, first: Affine | None) -> Affine:
        """``self(first(x))``."""
        if first is None:
            return self
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift)

    def channels(self, chosen: Sequence[int]) -> Affine:
        """The map of these channels."""
        index = torch.tensor(list(chosen), dtype=torch.int64, device=self.scale.device)
        return Affine(self.scale[index], self.shift[index])

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` (N, C, ...) mapped."""
        shape = (-1, *(1,) * (x.ndim - 2))
        return x * self.scale.to(x).reshape(shape) + self.shift.to(x).reshape(shape)

    def equals(self, other: Affine) -> bool:
        """Return whether ``other`` is the same map."""
        return torch.equal(self.scale, other.scale) and torch.equal(self.shift, other.shift)

    @property
    def invertible(self) -> Tensor:
        """Mask (C,) of the channels whose scale is not negligible."""
        size = self.scale.abs()
        return size > _SMALLEST_SCALE * size.max().clamp_min(torch.finfo(size.dtype).tiny)


def scale_and_shift(norm: nn.Module | None, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """``y = scale * x + shift`` of a norm in eval mode, (channels,) each; the identity for None."""
    if norm is None:
        return like.new_ones(channels), like.new_zeros(channels)
    mean, variance = _tensor(norm, "running_mean"), _tensor(norm, "running_var")
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + float(norm.eps)).rsqrt()  # type: ignore[arg-type]
    weight, bias = _tensor(norm, "weight"), _tensor(norm, "bias")
    if weight is not None:
        scale = scale * weight.double()
    shift = -scale * mean.double() if bias is None else bias.double() - scale * mean.double()
    return scale.to(like), shift.to(like)


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    value = getattr(module, name, None)
    return value.detach() if isinstance(value, Tensor) else None


def unscaling(norm: nn.Module | None, channels: int, like: Tensor) -> Tensor:
    """Factors of fitted (folded) weights before they go into the convolution, (channels,)."""
    if norm is None:
        return like.new_ones(channels)
    if _tensor(norm, "weight") is None:
        variance = _tensor(norm, "running_var")
        assert variance is not None
        deviation: Tensor = (variance + float(norm.eps)).sqrt()  # type: ignore[arg-type]
        return deviation.to(like)
    scale = scale_and_shift(norm, channels, like)[0].abs()
    return torch.where(scale > _SMALLEST_SCALE, 1 / scale.clamp_min(_SMALLEST_SCALE), torch.ones_like(scale))


@torch.no_grad()
def write_norm(norm: nn.Module, factor: Tensor, mean: Tensor, variance: Tensor, bias: Tensor) -> None:
    """Give ``norm`` the statistics of its new input, and the output ``x / factor + bias``.

    mean, variance:
        Statistics of the new convolution's output, after multiplication with ``factor``.
    """
    running_mean, running_var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    weight, offset = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if weight is None or offset is None:
        running_mean.copy_(-bias * factor)
        return
    running_mean.copy_(mean)
    # In float16 a variance may be too large; the weight is taken from what is written, so any will do.
    running_var.copy_(variance.clamp_max(torch.finfo(running_var.dtype).max))
    weight.copy_((running_var.double() + float(norm.eps)).sqrt() / factor.double())  # type: ignore[arg-type]
    offset.copy_(bias + mean / factor)
