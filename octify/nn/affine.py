"""The learned part of a norm over the two branches: scale, shift, and what the layer does afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octify.nn.channels import split_indices
from octify.nn.functional import Pair
from octify.nn.norm import select_channels

NEITHER: Pair = (None, None)


class Branch(nn.Module):
    """State of a norm for one branch: its channels' parameters, its dropout and its activation.

    Parameters
    ----------
    module:
        The norm over all ``channels`` channels. Its ``weight``, its ``bias`` and its parameters named
        in ``more`` become parameters here, None where it has none.
    indices:
        The branch's channels.
    """

    weight: Tensor | None
    bias: Tensor | None
    v: Tensor | None

    def __init__(
        self, module: nn.Module, channels: int, indices: Sequence[int], more: Sequence[str] = ()
    ) -> None:
        super().__init__()
        index = torch.tensor(list(indices))
        for name in ("weight", "bias", *more):
            whole = getattr(module, name, None)
            if whole is None:
                self.register_parameter(name, None)
            else:
                part = whole.detach().index_select(0, index.to(whole.device)).clone()
                self.register_parameter(name, nn.Parameter(part, requires_grad=whole.requires_grad))
        for name in ("drop", "act"):
            part = getattr(module, name, None)
            if isinstance(part, nn.Module) and not isinstance(part, nn.Identity):
                setattr(self, name, select_channels(part, channels, indices))
            else:
                setattr(self, name, None)

    def forward(self, y: Tensor) -> Tensor:
        """Dropout and activation of what is normalised, scaled and shifted."""
        for part in (self.drop, self.act):
            y = part(y) if isinstance(part, nn.Module) else y
        return y

    def extra_repr(self) -> str:
        return f"weight={self.weight is not None}, bias={self.bias is not None}"


class OctaveNorm(nn.Module):
    """A norm over an octave value; ``high`` and ``low`` hold the parameters, None without channels."""

    def __init__(
        self, module: nn.Module, channels: int, low: Sequence[int], more: Sequence[str] = ()
    ) -> None:
        super().__init__()
        high_channels, low_channels = split_indices(channels, low)
        self.high = Branch(module, channels, high_channels, more) if high_channels else None
        self.low = Branch(module, channels, low_channels, more) if low_channels else None
        self.train(module.training)

    def forward(self, high: Tensor | None, low: Tensor | None) -> Pair:
        high, low = self.normalised(high, low)
        return (
            high if self.high is None or high is None else self.high(high),
            low if self.low is None or low is None else self.low(low),
        )

    def normalised(self, high: Tensor | None, low: Tensor | None) -> Pair:
        """Both branches normalised, scaled and shifted."""
        raise NotImplementedError

    def parameter_pair(self, name: str) -> Pair:
        """A parameter of both branches."""
        return getattr(self.high, name, None), getattr(self.low, name, None)


def per_channel(parameter: Tensor, rank: int) -> Tensor:
    """A parameter (C,) shaped to broadcast against (N, C, *size) of ``rank`` dimensions."""
    return parameter.reshape(-1, *(1,) * (rank - 2))


def weighted(x: Tensor, weight: Tensor | None) -> Tensor:
    """``weight * x`` per channel; ``x`` where there is no weight."""
    return x if weight is None else x * per_channel(weight, x.ndim)


def shifted(x: Tensor, bias: Tensor | None) -> Tensor:
    """``x + bias`` per channel; ``x`` where there is no bias."""
    return x if bias is None else x + per_channel(bias, x.ndim)


def wide(x: Tensor) -> Tensor:
    """``x`` in a precision fit for statistics: half precision in float32, anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
