"""Convolutions: they begin, end and carry octave values.

Dense -> octave uses HH and HL only, octave -> dense HH and LH only, so a convolution absorbs
the boundary for free. A depthwise convolution computes each channel from itself, so it passes
the layout on. A grouped one asks for the same number of low channels in every group, and can do without.

A padding that only convolutions read is part of them (``octify.ops.padding``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import fx, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from octify.compat import ConvNd, forward_hooks, forward_pre_hooks, reversed_pads
from octify.kernels.taps import Exchange, Scheme
from octify.layout.channels import DENSE, Ids, Refusal
from octify.layout.single import single_axes
from octify.nn.conv import OCTAVE_CONV, OctaveConv
from octify.nn.functional import octave_axes
from octify.nn.padded import OCTAVE_PADDED
from octify.ops.base import Op, operand
from octify.ops.effective_conv import Form, form_of, plain_form
from octify.ops.emitter import Emitter, Value
from octify.ops.padding import Padding, through_padding
from octify.ops.walk import Walk
from octify.trace import Traced

ONE_SAMPLE = "there is one sample along an axis: no resolution to halve"


def is_depthwise(conv: ConvNd) -> bool:
    """One input channel per group (and maybe several outputs)."""
    return conv.groups > 1 and conv.groups == conv.in_channels


def refusal_of(conv: nn.Module, form: Form | str, before: Padding | None, shape: Sequence[int]) -> str | None:
    """Why a convolution cannot be rewritten whatever the plan says; None when it can.

    ``shape`` is that of its input, before the padding ``before`` that it takes over.
    """
    if _has_foreign_hooks(conv):
        return "it has forward hooks, which a rewritten convolution would lose"
    if isinstance(form, str):
        return form
    halved = octave_axes(len(shape) - 2)
    circular = "circular" in (form.mode, before[1] if before else "")
    if circular and any(n % 2 for n, h in zip(shape[2:], halved, strict=True) if h):
        return "circular padding of an odd size wraps within a 2x2 block"
    return None


def _has_foreign_hooks(conv: nn.Module) -> bool:
    """Hooks other than those by which pruning, weight and spectral norm compute the weight."""
    return bool(forward_hooks(conv)) or not all(
        isinstance(hook, (BasePruningMethod, WeightNorm, SpectralNorm))
        for hook in forward_pre_hooks(conv).values()
    )


def _layout(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    conv = walk.module(node)
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    source, pads = through_padding(walk.traced, node)
    ids = walk.ids(source)
    path = str(node.target)
    reason = walk.untouched.get(path) or walk.read.get(path)
    if ids is None or len(walk.shape(node)) != len(conv.kernel_size) + 2:
        reason = reason or "its input has no batch dimension"
    form = form_of(conv, walk.shape(operand(node))) if reason is None else reason
    reason = reason or refusal_of(conv, form, pads, walk.shape(source))
    if reason is None and not _called_alike(walk, node, (form, pads)):
        walk.conflicts.add(path)
    if reason is not None or ids is None:
        return Refusal(reason or "")
    single = read_single(walk.traced, node, form)
    if single != read_single(walk.traced, walk.traced.calls(path)[0], form):
        walk.conflicts.add(path)
    return convolved_ids(walk, node, ids, source, single)


def read_single(traced: Traced, node: fx.Node, form: Form | str) -> tuple[int, ...]:
    """Axes of one sample (``octify.layout.single``) of a convolution of ``form`` and a padding before it."""
    source, before = through_padding(traced, node)
    read, written = traced.shape(source), traced.shape(node)
    modes = [form.mode if isinstance(form, Form) else "", before[1] if before else "zeros"]
    if read is None or written is None or any(mode != "zeros" for mode in modes):
        return ()
    return single_axes(read[2:], written[2:], octave_axes(len(read) - 2))


def convolved_ids(
    walk: Walk, node: fx.Node, ids: Ids, source: fx.Node | None = None, single: Sequence[int] = ()
) -> Ids | Refusal:
    """Ids of a convolution's output, plain or transposed, for an input with ``ids``.

    ``source``: the value it reads, before a padding that it takes over. ``single``: axes of one sample, which
    its octave form leaves alone.
    """
    conv, path = walk.module(node), str(node.target)
    assert isinstance(conv, ConvNd)
    reads_one, makes_one = _single_samples(walk, node, conv, source or operand(node), single)
    if (reads_one or makes_one) and len(walk.traced.calls(path)) > 1:
        walk.conflicts.add(path)
    if reads_one and bool((ids != DENSE).any()):
        return Refusal(ONE_SAMPLE)
    if is_depthwise(conv):
        if path in walk.dense_outputs or makes_one:
            return Refusal(ONE_SAMPLE if makes_one else "its output is kept dense")
        out = np.repeat(ids, conv.out_channels // conv.groups)
        walk.conv(node, ids, out)
        return out
    if conv.groups > 1:
        walk.demand_even(node, ids, conv.groups)
    if path in walk.dense_outputs or makes_one:
        return walk.conv(node, ids, np.full(conv.out_channels, DENSE))
    earlier = walk.shared_output(node)
    out = walk.fresh(conv.out_channels) if earlier is None else earlier
    if conv.groups > 1:
        walk.demand_even(node, out, conv.groups)
    return walk.conv(node, ids, out)


def _single_samples(
    walk: Walk, node: fx.Node, conv: ConvNd, source: fx.Node, still: Sequence[int]
) -> tuple[bool, bool]:
    """Return whether a halved axis has a single sample in ``source``, and after the convolution.

    Axes ``still`` are not counted: the layer has its own taps there.

    It is its own mean, ``P`` and ``U`` leave it alone, and the composed kernels would not. There is
    nothing to compose along an axis where every output reads one position in its place, but the
    paths between the branches compose all axes or none.
    """
    dims = len(conv.kernel_size)
    pads = reversed_pads(conv)
    moves = [
        conv.kernel_size[a] > 1
        or conv.stride[a] > 1
        or pads[2 * (dims - 1 - a)] + pads[2 * (dims - a) - 1] > 0
        or walk.shape(source)[2 + a] != walk.shape(operand(node))[2 + a]
        for a in range(dims)
    ]
    if not is_depthwise(conv):
        moves = [any(moves)] * dims

    def single(value: fx.Node) -> bool:
        axes = enumerate(zip(walk.shape(value)[2:], octave_axes(dims), moves, strict=True))
        return any(n == 1 and halved and moved and a not in still for a, (n, halved, moved) in axes)

    return single(source), single(node)


def _called_alike(walk: Walk, node: fx.Node, here: tuple[Form | str, Padding | None]) -> bool:
    """Return whether the first call of the module pads its input as this one does."""
    first = walk.traced.calls(str(node.target))[0]
    if first is node:
        return True
    source = through_padding(walk.traced, first)[1]
    return (form_of(walk.module(node), walk.shape(operand(first))), source) == here


def _emit(emitter: Emitter, node: fx.Node) -> Value:
    path = str(node.target)
    planned = emitter.plan.conv(path)
    conv = emitter.module(node)
    source, pads = through_padding(emitter.traced, node)
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    if not planned.low_in and not planned.low_out:
        return Value(emitter.copy(node))
    mask = np.zeros(conv.in_channels, dtype=bool)
    mask[list(planned.low_in)] = True
    x = emitter.as_mask(source, mask if planned.low_in else None)
    layer = emitter.modules.get(path)
    if layer is None:
        layer = octave_conv(
            conv,
            emitter.shape(operand(node)),
            pads,
            planned.low_in,
            planned.low_out,
            planned.kernels,
            planned.exchange,
            read_single(emitter.traced, node, form_of(conv, emitter.shape(operand(node)))),
        )
    return emitter.pair(emitter.call(path, layer, x.high, x.low), emitter.mask(node))


def octave_conv(
    layer: nn.Module,
    shape: Sequence[int],
    before: Padding | None,
    low_in: Sequence[int],
    low_out: Sequence[int],
    kernels: Scheme,
    exchange: Exchange = "full",
    single: Sequence[int] = (),
) -> OctaveConv:
    """The octave form of ``layer``, for an input of ``shape`` that ``before`` has padded.

    ``single``: axes along which it reads and writes one sample.
    """
    form = form_of(layer, shape)
    assert isinstance(form, Form)
    plain = plain_form(layer, form, shape, before)
    plain.single = tuple(single)
    kinds = OCTAVE_CONV if plain.padding_mode == "zeros" else OCTAVE_PADDED
    return kinds[len(plain.kernel_size)].from_conv(plain, low_in, low_out, kernels, exchange)


OPS = (Op("convolution", _layout, _emit, modules=(nn.Conv1d, nn.Conv2d, nn.Conv3d), any_forward=True),)
