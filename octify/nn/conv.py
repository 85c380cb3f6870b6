"""Octave convolution: four ordinary convolutions between two resolutions.

    Y_high = high_to_high(X_high) + U low_to_high(X_low)
    Y_low  = high_to_low(P X_high) + low_to_low(X_low)

(Chen et al. 2019, eq. 2-4; which side of ``P`` and ``U`` each kernel sits on is
``octify.kernels``' business.) The four paths are plain ``nn.Conv*d`` modules, or a few of them
where groups have different numbers of low channels (``octify.nn.groups``), so that quantizers,
pruners and profilers see what they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.checks.words import require_known
from octify.compat import reversed_pads
from octify.kernels.convolution import path
from octify.kernels.taps import (
    PATHS,
    Axis,
    Branch,
    Exchange,
    Path,
    PathName,
    SameAxis,
    Scheme,
    SingleAxis,
)
from octify.nn.channels import last_channels, split_indices
from octify.nn.eager import add_upsampled, convolved, is_bare, is_plain
from octify.nn.exchange import exchange_of, has_path
from octify.nn.functional import crop, low_size, octave_axes, output_sizes, pool, upsample
from octify.nn.groups import ChannelRun, Grouped, UnevenGroups, refuse_scattered
from octify.nn.settled import settled
from octify.nn.tellable import require_tellable

_CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE: dict[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_PathModule = nn.Conv1d | nn.Conv2d | nn.Conv3d | UnevenGroups
NOMINAL_LENGTH = 960  # even through many strides: a size at which the usual padding must fit


def axes_of(conv: nn.Module) -> tuple[Axis, ...]:
    """The geometry of an ``nn.Conv*d``, one ``Axis`` per spatial dimension.

    Axes named by an attribute ``single`` of the layer have one sample (``octify.layout.single``).
    """
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    pads = reversed_pads(conv)  # (last axis left, right, ..., first axis left, right)
    dims = len(conv.kernel_size)
    usual = SameAxis if getattr(conv, "same", False) else Axis
    single: Sequence[int] = getattr(conv, "single", ())
    kinds = [SingleAxis if a in single else usual for a in range(dims)]
    return tuple(
        kinds[a](
            conv.kernel_size[a],
            conv.stride[a],
            pads[2 * (dims - 1 - a)],
            pads[2 * (dims - 1 - a) + 1],
            conv.dilation[a],
            octave_axes(dims)[a] and a not in single,
        )
        for a in range(dims)
    )


def compose_kernel(weight: Tensor, recipe: Path, groups: int) -> Tensor:
    """``weight`` (O, I / groups, *taps) with ``recipe``'s matrices applied along the spatial axes.

    Computed in float64. For a transposed recipe the result is (I, O / groups, *new taps).
    """
    taps = recipe.kernel_size
    if all(np.array_equal(matrix, np.eye(*matrix.shape)) for matrix in recipe.matrices):
        y = weight.detach()
    else:  # one matrix for all axes at once: several times faster than one product for each
        whole = torch.ones(1, 1, dtype=torch.float64)
        for matrix in recipe.matrices:
            whole = torch.kron(whole, torch.from_numpy(matrix))
        whole = whole.to(weight.device)
        y = (weight.detach().double().flatten(2) @ whole.T).reshape(*weight.shape[:2], *taps)
    if recipe.transposed:
        y = y.reshape(groups, -1, *y.shape[1:]).transpose(1, 2).flatten(0, 1)
    return y.to(weight.dtype, copy=True).contiguous()


class OctaveConv(nn.Module):
    """Octave convolution over 1, 2 or 3 spatial dimensions (of three, the last two are halved).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias:
        As for ``nn.Conv*d``.
    alpha_in, alpha_out:
        Share of low-frequency channels, ``int(alpha * channels)`` of them, last. 0 is dense.
    kernels:
        ``"paper"`` (original kernel size on every path) or ``"exact"``.
    exchange:
        ``"full"``, or ``"spatial"``: a 1x1 convolution between octave values keeps high and low channels
        apart; ``"high-to-low"``: it has no low-to-high path. Any other convolution has all its paths
        (``octify.nn.exchange``).

    Shapes: high (N, I - Li, *size) and low (N, Li, *ceil(size / 2)); a branch without channels is None.
    """

    spatial_dims: ClassVar[int] = 2
    high_to_high: nn.Module | None
    high_to_low: nn.Module | None
    low_to_high: nn.Module | None
    low_to_low: nn.Module | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        kernels: Scheme = "paper",
        exchange: Exchange = "full",
    ) -> None:
        super().__init__()
        dense = _CONV[self.spatial_dims](
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        low_in = grouped_last(in_channels, alpha_in, groups)
        self._build(dense, low_in, grouped_last(out_channels, alpha_out, groups), kernels, exchange)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Module,
        low_in: Sequence[int],
        low_out: Sequence[int],
        kernels: Scheme = "paper",
        exchange: Exchange = "full",
    ) -> OctaveConv:
        """The octave form of ``conv`` (an ``nn.Conv*d``, left untouched).

        ``low_in`` and ``low_out`` are the low-frequency channels of its input and output.
        A path between groups with different numbers of low channels is an ``UnevenGroups``. Raises
        PlanError when that would take more than ``octify.nn.groups.MAX_RUNS`` convolutions.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._build(settled(conv), low_in, low_out, kernels, exchange)
        return layer

    def _build(
        self,
        conv: nn.Module,
        low_in: Sequence[int],
        low_out: Sequence[int],
        kernels: Scheme,
        exchange: Exchange,
    ) -> None:
        assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        require_known("kernels", kernels, Scheme)
        require_known("exchange", exchange, Exchange)
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.groups, self.kernels = conv.groups, kernels
        self.axes = self._axes(conv)
        ins = dict(zip(("high", "low"), split_indices(conv.in_channels, low_in), strict=True))
        outs = dict(zip(("high", "low"), split_indices(conv.out_channels, low_out), strict=True))
        self.low_in, self.low_out = ins["low"], outs["low"]
        refuse_scattered(conv, self.low_in, self.low_out)
        self.exchange: Exchange = exchange_of(conv, exchange, self.low_in, self.low_out)
        self.recipes: dict[PathName, Path] = {}
        for name in sorted(PATHS, key=lambda name: not name.keeps_resolution):
            grouped = Grouped.of(conv, ins[name.source], outs[name.target])
            if not any(run.leads for run in grouped.runs) or not has_path(self.exchange, name):
                setattr(self, name.value, None)
                continue
            self.recipes[name] = self._recipe(name)
            setattr(self, name.value, self._path_module(conv, name, grouped, outs[name.target]))
        self.train(conv.training)

    def _axes(self, conv: nn.Module) -> tuple[Axis, ...]:
        return axes_of(conv)

    def _recipe(self, name: PathName) -> Path:
        return path(name, self.axes, self.kernels)

    def _path_module(
        self, conv: nn.Module, name: PathName, grouped: Grouped, out: Sequence[int]
    ) -> nn.Module:
        """The path as one plain convolution, or several where its groups differ."""
        runs = grouped.runs
        leading = [run for run in runs if run.leads]
        convs = [self._run_module(conv, name, grouped, run, out) for run in leading]
        return convs[0] if len(runs) == 1 else UnevenGroups(convs, leading, len(out))

    def _run_module(
        self, conv: nn.Module, name: PathName, grouped: Grouped, run: ChannelRun, out: Sequence[int]
    ) -> nn.Module:
        assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        recipe, groups = self.recipes[name], len(run.groups)
        # The path at one resolution carries the bias; the other one does for groups that have none of it.
        alone = run.inputs == conv.in_channels // conv.groups
        bias = conv.bias if alone or name.keeps_resolution else None
        layer = (CONV_TRANSPOSE if recipe.transposed else _CONV)[len(self.axes)](
            run.inputs * groups,
            run.outputs * groups,
            recipe.kernel_size,
            recipe.strides,
            self._padding(recipe, name),
            dilation=recipe.dilations,
            groups=groups,
            bias=bias is not None,
            device="meta",  # no memory and no random numbers for weights that are replaced next
        )
        own = dict(conv.named_parameters(recurse=False)).get("weight")
        grad = own is None or own.requires_grad
        weight = compose_kernel(grouped.kernel(conv.weight, run), recipe, groups)
        layer.weight = nn.Parameter(weight, requires_grad=grad)
        if bias is not None:
            channels = out[run.first_out : run.first_out + run.outputs * groups]
            layer.bias = nn.Parameter(bias.detach()[list(channels)], requires_grad=grad)
        return layer

    def _padding(self, recipe: Path, name: PathName) -> tuple[int, ...]:
        """The padding a path's own convolution can do: symmetric, where that gives the right size."""
        if recipe.transposed:
            return tuple(-start for start in recipe.starts)
        size = tuple(1 if isinstance(axis, SingleAxis) else NOMINAL_LENGTH for axis in self.axes)
        out = tuple(axis.output_length(n) for axis, n in zip(self.axes, size, strict=True))
        source_size = low_size(size) if recipe.before == "pool" or name.source == "low" else size
        target_size = low_size(out) if name.target == "low" or recipe.after == "up" else out
        if recipe.before == "up":
            source_size = size
        elif recipe.before == "pool" and name.source == "low":
            source_size = low_size(low_size(size))
        paddings = []
        for axis, (n, need) in enumerate(zip(source_size, target_size, strict=True)):
            left = -recipe.starts[axis]
            natural = _natural_length(recipe, axis, n, left)
            paddings.append(left if left >= 0 and natural == need else 0)
        return tuple(paddings)

    def forward(self, high: Tensor | None, low: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        size, high_out, low_out = output_sizes(high, low, self.axes)
        y_high = self.branch("high", high, low, size, high_out)
        if y_high is None:
            require_tellable(None, high_out)
        return y_high, self.branch("low", high, low, size, low_out)

    def branch(
        self,
        target: Branch,
        high: Tensor | None,
        low: Tensor | None,
        size: tuple[int, ...],
        need: tuple[int, ...],
    ) -> Tensor | None:
        """The sum of the paths into one branch of spatial size ``need``; None if no path leads there."""
        total: Tensor | None = None
        ours = False  # whether nobody else can hold ``total``: a bare convolution gave it
        for name in PATHS:
            x = high if name.source == "high" else low
            if name.target != target or x is None or name not in self.recipes:
                continue
            y = self._run(name, x, size, need)
            if total is None:
                total = self._finished(name, y, need)
                ours = is_plain(total) and total.ndim == 4 and is_bare(getattr(self, name.value))
            else:
                total = self._added(total, name, y, need, ours)
        return total

    def _run(self, name: PathName, x: Tensor, size: tuple[int, ...], need: tuple[int, ...]) -> Tensor:
        """Output of path ``name``, before upsampling and pooling."""
        recipe = self.recipes[name]
        if recipe.before == "pool":
            x = pool(x)
        elif recipe.before == "up":
            x = upsample(x, size)
        return self.convolve(name, getattr(self, name.value), x, self.inner_size(name, size, need))

    def _finished(self, name: PathName, y: Tensor, need: tuple[int, ...]) -> Tensor:
        after = self.recipes[name].after
        if after == "up":
            return upsample(y, need)
        return pool(y) if after == "pool" else y

    def _added(self, total: Tensor, name: PathName, y: Tensor, need: tuple[int, ...], ours: bool) -> Tensor:
        """``total`` and the path's finished result; in its place where it is ``ours``."""
        if not ours:
            return total + self._finished(name, y, need)
        if self.recipes[name].after == "up" and tuple(y.shape[2:]) == low_size(need):
            return add_upsampled(total, y)
        return total.add_(self._finished(name, y, need))

    def inner_size(self, name: PathName, size: Sequence[int], need: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of what path ``name`` convolves to, before it is upsampled or pooled to ``need``.

        ``size`` is that of the whole convolution's high-frequency input.
        """
        after = self.recipes[name].after
        if after == "pool":
            return tuple(axis.output_length(n) for axis, n in zip(self.axes, size, strict=True))
        return low_size(need) if after == "up" else tuple(need)

    def convolve(self, name: PathName, conv: nn.Module, x: Tensor, need: Sequence[int]) -> Tensor:
        """``conv`` in the place of path ``name``'s own, on its pooled or upsampled input ``x``.

        Padded as the path is, and cropped to spatial size ``need``: (N, channels, *need).
        """
        recipe = self.recipes[name]
        if recipe.transposed:
            return _transposed_to_size(conv, x, recipe, need)
        return convolved_to_size(conv, x, recipe, need)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, low_in={len(self.low_in)}, "
            f"low_out={len(self.low_out)}, kernels={self.kernels!r}"
            + (f", exchange={self.exchange!r}" if self.exchange != "full" else "")
        )


def grouped_last(channels: int, alpha: float, groups: int) -> tuple[int, ...]:
    """The last ``int(alpha * c)`` channels of every group of c (one group: the paper's choice)."""
    if groups == channels:  # depthwise: groups carry their own level
        return last_channels(channels, alpha)
    per = channels // groups
    return tuple(g * per + c for g in range(groups) for c in last_channels(per, alpha))


def _natural_length(recipe: Path, axis: int, n: int, padding: int) -> int:
    reach = recipe.dilations[axis] * (recipe.kernel_size[axis] - 1)
    return (n + 2 * padding - reach - 1) // recipe.strides[axis] + 1


def convolved_to_size(conv: _PathModule, x: Tensor, recipe: Path, need: Sequence[int]) -> Tensor:
    """``conv`` on ``x`` so that its output has spatial size ``need`` and starts at the recipe's offset."""
    extra: list[int] = []
    for axis, (n, length) in enumerate(zip(x.shape[2:], need, strict=True)):
        own, left = int(conv.padding[axis]), -recipe.starts[axis]
        reach = recipe.dilations[axis] * (recipe.kernel_size[axis] - 1)
        right = (length - 1) * recipe.strides[axis] + reach + 1 - n - left
        if own == left:  # more outputs than wanted are cropped; fewer need zeros on the right
            missing = max(0, right - own) if _natural_length(recipe, axis, n, own) < length else 0
            extra = [0, missing, *extra]
        else:
            extra = [left, right, *extra]
    if any(extra):
        x = F.pad(x, extra)
    return crop(convolved(conv, x), need)


def _transposed_to_size(conv: nn.Module, x: Tensor, recipe: Path, need: Sequence[int]) -> Tensor:
    """Like ``convolved_to_size``, for a transposed convolution of stride 2."""
    extra: list[int] = []
    for axis, (n, length) in enumerate(zip(x.shape[2:], need, strict=True)):
        natural = (n - 1) * 2 + 2 * recipe.starts[axis] + recipe.kernel_size[axis]
        extra = [0, max(0, (length - natural + 1) // 2), *extra]
    if any(extra):
        x = F.pad(x, extra)
    return crop(conv(x), need)


class OctaveConv1d(OctaveConv):
    """Octave convolution over sequences (N, C, L)."""

    spatial_dims: ClassVar[int] = 1


class OctaveConv2d(OctaveConv):
    """Octave convolution over images (N, C, H, W)."""

    spatial_dims: ClassVar[int] = 2


class OctaveConv3d(OctaveConv):
    """Octave convolution over videos (N, C, T, H, W); time keeps its resolution (the paper's I3D)."""

    spatial_dims: ClassVar[int] = 3


OCTAVE_CONV: dict[int, type[OctaveConv]] = {1: OctaveConv1d, 2: OctaveConv2d, 3: OctaveConv3d}
