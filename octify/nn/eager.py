"""Eager inference on the CPU: the same sums and means by operators that take less time there.

Three things cost PyTorch more than they compute when it runs a network as it stands:

* On one thread it gives 1x1 convolutions, and 3x3 ones of small maps, to its own im2col kernel and the
  BLAS. oneDNN is at least as fast unless weights outweigh the map, and takes half the time where the BLAS
  is MKL and the processor no Intel one. Octave paths are just these; ``convolved`` asks oneDNN.
* A map is upsampled into memory only to be added and forgotten; ``add_upsampled`` adds the low map to
  the four positions of every block instead.
* Its average pooling of contiguous maps takes six times as long as two additions of every second row and
  column; ``pooled`` makes these.

All three are for plain inference alone (``is_plain``): with gradients, while a graph is captured (compile,
export, trace), or where something watches modules or operators, everything runs as it is written.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.compat import forward_hooks, forward_pre_hooks, has_global_hooks, has_onednn, is_watched

_ATEN = torch.ops.aten
_SMALL = 2**17  # elements: four additions of parts take longer than one of the whole
_FEW = 150  # taps times positions: oneDNN brings weights into its layout at every call


def is_plain(x: Tensor) -> bool:
    """Return whether ``x`` is an ordinary float32 tensor on the CPU, in inference without tracing."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.dtype is torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not is_watched()
    )


def is_bare(conv: nn.Module) -> bool:
    """Return whether calling ``conv`` is the same as calling an ``nn.Conv2d``: it has no hooks."""
    return (
        type(conv) is nn.Conv2d
        and not forward_hooks(conv)
        and not forward_pre_hooks(conv)
        and "forward" not in vars(conv)
        and not has_global_hooks()
    )


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)``, by oneDNN if that is what PyTorch might not choose: (N, C, *size) -> (N, O, *out)."""
    if not (is_plain(x) and x.ndim == 4 and x.numel() and is_bare(conv) and _is_for_onednn(conv, x)):
        y: Tensor = conv(x)
        return y
    y = _ATEN.mkldnn_convolution(
        x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
    )
    return y


def _is_for_onednn(conv: nn.Module, x: Tensor) -> bool:
    """Return whether to call oneDNN for the convolution; PyTorch itself does so for grouped ones."""
    assert isinstance(conv, nn.Conv2d)
    if conv.kernel_size[0] * conv.kernel_size[1] * x.shape[0] * x.shape[2] * x.shape[3] < _FEW:
        return False
    own = type(conv.weight) is nn.Parameter and conv.weight.dtype is torch.float32
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return own and plain and has_onednn()


def add_upsampled(total: Tensor, low: Tensor) -> Tensor:
    """``total + U low`` in the place of ``total`` (N, C, H, W); low (N, C, ceil(H / 2), ceil(W / 2))."""
    if not total.is_contiguous() and total.numel() < _SMALL:
        up = F.interpolate(low, scale_factor=2.0, mode="nearest")
        return total.add_(up[..., : total.shape[2], : total.shape[3]])
    for row in (0, 1):
        for column in (0, 1):
            part = total[..., row::2, column::2]
            part += low[..., : part.shape[2], : part.shape[3]]
    return total


def pooled(x: Tensor) -> Tensor | None:
    """2x average pooling of (N, C, H, W); None where PyTorch's own takes no longer, or the size is odd."""
    if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2 or not x.is_contiguous() or not is_plain(x):
        return None
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25)
