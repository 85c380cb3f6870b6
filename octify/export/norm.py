"""BatchNorm in eval mode: ``y = scale * x + shift`` per channel, then what its class adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from octify.compat import forward_hooks, forward_pre_hooks
from octify.trace.attached import attached
from octify.trace.batchnorm import is_frozen_batch_norm, is_known_batch_norm

_DEPTHWISE: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {4: nn.Conv2d, 5: nn.Conv3d}


class ChannelAffine(nn.Module):
    """``scale * x + shift`` per channel: (N, C) or (N, C, *size) -> the same shape."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)
        self.shift = nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * self.scale.view(shape) + self.shift.view(shape)

    def extra_repr(self) -> str:
        return f"{self.scale.numel()}"


@dataclass(frozen=True)
class Norm:
    """Affine map of a BatchNorm in eval mode."""

    scale: Tensor  # (C,) float64
    shift: Tensor  # (C,) float64
    rank: int | None  # rank of its input; None where the class takes several
    dtype: torch.dtype
    tail: tuple[nn.Module, ...]  # the rest of a fused class (dropout, activation)

    def as_module(self) -> nn.Module:
        """The scale and shift as a module of their own, without the tail.

        A 1x1 depthwise convolution where the rank allows it: onnxruntime keeps those in its blocked
        layout, and runs DenseNet-121 10 % faster than with a multiplication and an addition.
        """
        scale, shift = self.scale.to(self.dtype), self.shift.to(self.dtype)
        if self.rank is None:
            return ChannelAffine(scale, shift)
        channels = scale.numel()
        layer = _DEPTHWISE[self.rank](
            channels, channels, 1, groups=channels, device=scale.device, dtype=self.dtype
        )
        layer.weight = nn.Parameter(scale.view(layer.weight.shape))
        layer.bias = nn.Parameter(shift)
        return layer.eval()


def norm_of(module: nn.Module) -> Norm | None:
    """``module`` as a ``Norm``, or None if it is no BatchNorm with fixed statistics and a known forward."""
    if not is_known_batch_norm(module) or has_hooks(module) or parametrize.is_parametrized(module):
        return None
    mean, variance = module.get_buffer("running_mean"), module.get_buffer("running_var")
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    deviation = torch.sqrt(variance.detach().double() + float(module.eps))  # type: ignore[arg-type]
    scale = (torch.ones_like(deviation) if weight is None else weight.detach().double()) / deviation
    shift = (0.0 if bias is None else bias.detach().double()) - mean.detach().double() * scale
    rank = 4 if is_frozen_batch_norm(module) or isinstance(module, nn.BatchNorm2d) else None
    rank = 5 if isinstance(module, nn.BatchNorm3d) else rank
    parts = (getattr(module, name, None) for name in ("drop", "act"))
    tail = tuple(p for p in parts if isinstance(p, nn.Module) and not isinstance(p, nn.Identity))
    return Norm(scale, shift, rank, mean.dtype, tail)


def has_hooks(module: nn.Module) -> bool:
    """Return whether ``module`` has hooks, by which weight norm and spectral norm work, too."""
    return bool(forward_hooks(module) or forward_pre_hooks(module) or attached(module))
