"""Effective convolution of a layer: its weight, stride, groups and padding.

Layers that derive from ``nn.Conv*d`` and override ``forward`` pad by the input's size ("SAME"),
standardise their weight, or both; an anti-aliasing blur is a convolution with a fixed weight.
Rather than a list of classes, such a layer is run once, on a meta input of the size it gets, and
its calls are watched. It is a plain convolution if what depends on the input is padded, convolved
once and returned; whatever it computes from its parameters alone is then its effective weight.

In the octave layer the effective weight is held: standardisation is folded in, and fine-tuning
trains the effective weight. The converted layer keeps the padding of the size it was watched at
(see ``octify.kernels.taps.SameAxis`` for other sizes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from octify.compat import forward_pre_hooks, native, reversed_pads, tree_leaves, tree_map_only
from octify.nn.padded import PaddedConv1d, PaddedConv2d, PaddedConv3d, Pads, padded_conv

_DIMS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_PAD_ARGUMENTS = ("input", "pad", "mode", "value")
_PADS = (F.pad, *native("pad"))
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Form:
    """The geometry of a convolution.

    pads:
        (left, right) per axis, at the input size it was found for.
    mode:
        As ``nn.Conv*d``'s ``padding_mode``.
    same:
        Whether the pads follow the input's size so that it has ceil(n / stride) outputs.
    """

    pads: Pads
    mode: str
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    same: bool = False


@dataclass(frozen=True)
class _Seen:
    form: Form
    weight: Tensor
    bias: Tensor | None
    out_size: tuple[int, ...]


class NotOneConvolutionError(Exception):
    """The layer does something else than one convolution; the message says what."""


def _named(names: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


class _Watch(TorchFunctionMode):
    """Follows the input through a layer: padded, then convolved, then returned."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.dims = x.ndim - 2
        self.current = x
        self.pads: Pads = ((0, 0),) * self.dims
        self.mode = "zeros"
        self.seen: _Seen | None = None
        self._stale: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(t is old for t in tensors for old in (self.current, *self._stale)):
            return func(*args, **kwargs)
        if func in _DIMS or func in _PADS:
            return self._step(func, args, kwargs)
        result = func(*args, **kwargs)
        if any(isinstance(leaf, Tensor) and leaf is not self.current for leaf in tree_leaves(result)):
            name = getattr(func, "__name__", str(func))
            if any(t is not self.current and t.device.type != "meta" for t in tensors):
                raise NotOneConvolutionError(f"it computes {name} of its input and of its parameters")
            raise NotOneConvolutionError(f"it computes {name} beside its convolution")
        return result

    def _step(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        names = _CONV_ARGUMENTS if func in _DIMS else _PAD_ARGUMENTS
        call = _named(names, args, kwargs)
        others = [value for name, value in call.items() if name != "input" and isinstance(value, Tensor)]
        if any(value is old for value in others for old in (self.current, *self._stale)):
            raise NotOneConvolutionError("its weights depend on its input")
        if call["input"] is not self.current or self.seen is not None:
            raise NotOneConvolutionError("it is more than one convolution")
        y = self._convolve(func, call) if func in _DIMS else self._pad(call)
        self._stale.append(self.current)
        self.current = y
        return y

    def _pad(self, call: dict[str, Any]) -> Tensor:
        amounts, mode = [int(n) for n in call["pad"]], call.get("mode", "constant")
        pads = pads_of(amounts, self.dims)
        if pads is None:
            raise NotOneConvolutionError("it pads channels")
        if mode == "constant" and call.get("value"):
            raise NotOneConvolutionError("it pads with other values than zeros")
        joined = join_pads((self.pads, self.mode), (pads, "zeros" if mode == "constant" else mode))
        if joined is None:
            raise NotOneConvolutionError("it pads in two ways")
        self.pads, self.mode = joined
        x = call["input"]
        size = [n + left + right for n, (left, right) in zip(x.shape[2:], pads, strict=True)]
        return torch.empty((*x.shape[:2], *size), device="meta", dtype=x.dtype)

    def _convolve(self, func: Any, call: dict[str, Any]) -> Tensor:
        x, weight, dims = call["input"], call["weight"], _DIMS[func]
        if x.ndim != dims + 2:
            raise NotOneConvolutionError("its input has no batch dimension")
        stride, dilation = (_each(call.get(name, 1), dims) for name in ("stride", "dilation"))
        groups = int(call.get("groups", 1))
        own = _conv_pads(call.get("padding", 0), weight.shape[2:], dilation)
        joined = join_pads((self.pads, self.mode), (own, "zeros"))
        if joined is None:
            raise NotOneConvolutionError("it pads in two ways")
        meta = tree_map_only(Tensor, lambda t: t.to("meta"), call)
        y: Tensor = func(**{**meta, "input": x})
        form = Form(joined[0], joined[1], stride, dilation, groups, x.shape[1], weight.shape[0])
        self.seen = _Seen(form, weight, call.get("bias"), tuple(y.shape[2:]))
        return y


def _each(value: Any, dims: int) -> tuple[int, ...]:
    return (
        (int(value),) * dims
        if isinstance(value, int)
        else tuple(int(n) for n in value) * (dims if len(value) == 1 else 1)
    )


def _conv_pads(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> Pads:
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((n, n) for n in _each(padding, len(kernel)))


def pads_of(amounts: Sequence[int], dims: int) -> Pads | None:
    """``F.pad``'s amounts as (left, right) per axis; None if they pad channels or the batch."""
    padded = [*amounts, *[0] * (2 * dims - len(amounts))]
    if any(padded[2 * dims :]):
        return None
    return tuple((padded[2 * (dims - 1 - a)], padded[2 * (dims - 1 - a) + 1]) for a in range(dims))


def join_pads(first: tuple[Pads, str], then: tuple[Pads, str]) -> tuple[Pads, str] | None:
    """The one padding (pads, mode) that equals two in a row; None if there is none."""
    if not any(map(any, first[0])):
        return then
    if not any(map(any, then[0])):
        return first
    both = [(a, b) for each in zip(first[0], then[0], strict=True) for a, b in zip(*each, strict=True)]
    if first[1] != then[1] or first[1] not in ("zeros", "replicate") or any(a < 0 or b < 0 for a, b in both):
        return None
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(first[0], then[0], strict=True)), first[1]


def _watch(layer: nn.Module, channels: int, size: Sequence[int], dtype: torch.dtype) -> _Seen:
    """Run ``layer`` on a meta input (1, channels, *size). Raises NotPlainError."""
    x = torch.empty((1, channels, *size), device="meta", dtype=dtype)
    watch = _Watch(x)
    try:
        with torch.no_grad(), watch:
            y = layer(x)
    except NotOneConvolutionError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        raise NotOneConvolutionError(
            f"its forward fails on a meta tensor: {text[0] if text else error!r}"
        ) from error
    if watch.seen is None or y is not watch.current:
        raise NotOneConvolutionError("its forward is not one convolution")
    return watch.seen


_FORMS: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Form | str]] = WeakKeyDictionary()


def form_of(layer: nn.Module, shape: Sequence[int]) -> Form | str:
    """The form of ``layer`` for an input of ``shape`` (N, C, *size), or why it is no plain convolution."""
    if type(layer) in _PLAIN and not forward_pre_hooks(layer):
        assert isinstance(layer, _PLAIN)
        pads = pads_of(reversed_pads(layer), len(layer.kernel_size))
        assert pads is not None
        mode = layer.padding_mode if any(map(any, pads)) else "zeros"
        channels = (layer.in_channels, layer.out_channels)
        return Form(pads, mode, layer.stride, layer.dilation, layer.groups, *channels)
    key = tuple(shape[1:])
    forms = _FORMS.setdefault(layer, {})
    if key not in forms:
        forms[key] = _watched_form(layer, key)
    return forms[key]


def _watched_form(layer: nn.Module, key: tuple[int, ...]) -> Form | str:
    channels, size = key[0], key[1:]
    dtype = _dtype(layer)
    try:
        here = _watch(layer, channels, size, dtype)
        beside = _watch(layer, channels, [n + 1 for n in size], dtype)
    except NotOneConvolutionError as reason:
        return str(reason)
    form = here.form
    if beside.form.pads == form.pads:
        return form
    steps = zip(size, form.stride, here.out_size, strict=True)
    if form.mode != "zeros" or any(out != -(-n // s) for n, s, out in steps):
        return "its padding depends on the size of its input"
    return Form(**{**vars(form), "same": True})


def _dtype(layer: nn.Module) -> torch.dtype:
    tensors = [*layer.parameters(), *layer.buffers()]
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def plain_form(
    layer: nn.Module, form: Form, shape: Sequence[int], before: tuple[Pads, str] | None = None
) -> PaddedConv1d | PaddedConv2d | PaddedConv3d:
    """``layer`` of ``form`` with its effective weight, after a padding ``before`` it if given."""
    if isinstance(layer, _PLAIN) and type(layer) in _PLAIN and not forward_pre_hooks(layer):
        weight, bias = layer.weight, layer.bias
    else:
        seen = _watch(layer, shape[1], shape[2:], _dtype(layer))
        weight, bias = seen.weight, seen.bias
    joined = (form.pads, form.mode) if before is None else join_pads(before, (form.pads, form.mode))
    assert joined is not None
    trained = any(p.requires_grad for p in layer.parameters())
    conv = padded_conv(
        _parameter(weight, trained),
        None if bias is None else _parameter(bias, trained),
        form.stride,
        form.dilation,
        form.groups,
        *joined,
        form.same,
    )
    conv.training = layer.training
    return conv


def _parameter(value: Tensor, trained: bool) -> nn.Parameter:
    if isinstance(value, nn.Parameter):
        return value
    return nn.Parameter(value.detach().contiguous(), requires_grad=trained)


def reads_own_weight(layer: nn.Module, shape: Sequence[int]) -> bool:
    """Return whether ``layer`` convolves an input of ``shape`` with its own ``weight`` and ``bias``.

    Whoever changes these then changes the convolution in the same way.
    """
    try:
        seen = _watch(layer, shape[1], shape[2:], _dtype(layer))
    except NotOneConvolutionError:
        return False
    own = dict(layer.named_parameters(recurse=False, remove_duplicate=False))
    return seen.weight is own.get("weight") and seen.bias is own.get("bias")
