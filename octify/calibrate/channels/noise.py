"""Error of computing a channel at half resolution.

A low channel is not ``P`` of the original's channel but what a convolution and its activation make
of pooled inputs: rectified textures have a mean that pooled inputs do not tell. The share of
``P act(z)`` that least squares on the taps of ``P x`` and on ``act(P z)`` leaves unexplained is that
channel's *noise*: 0 for a channel that is made as well at half resolution, near 1 for a lost one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from octify.calibrate.channels.convolution import Conv, channels_second, convolution
from octify.calibrate.fit.affine import scale_and_shift
from octify.calibrate.fit.rows import read_taps, sample
from octify.calibrate.inputs.images import count_of
from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.nodes import elementwise, inner_activation, only_user
from octify.calibrate.streams.observe import Observer, observe
from octify.kernels.convolution import path
from octify.kernels.taps import Path, PathName
from octify.layout.channels import DENSE, ConvNode, Ids, Layout
from octify.nn.conv import axes_of
from octify.nn.functional import pool
from octify.trace import Traced
from octify.trace.batchnorm import is_affine_norm

_RIDGE = 1e-2  # of the mean variance of a tap
_ROWS = 10_000
_MOST_BYTES = 2**30


@dataclass
class _Producer:
    """Sums over ``rows`` of what a convolution makes, by group: k = ``[taps of P x, 1]``, e = ``act(P z)``
    and t = ``P act(z)``, one e and t for each output.

    gram, cross:
        Sums of ``k k'`` and ``k [e, t]'``.
    squares, own:
        Sums of the squares of ``[e, t]``, and of ``e t``.
    """

    classes: Ids
    groups: int
    gram: Tensor = field(repr=False)
    cross: Tensor = field(repr=False)
    squares: Tensor = field(repr=False)
    own: Tensor = field(repr=False)
    rows: int = 0

    def add(self, taps: Tensor, early: Tensor, target: Tensor) -> None:
        """Taps (R, I, K), e (R, O) and t (R, O)."""
        taps, early, target = (
            x.reshape(len(x), self.groups, -1).movedim(1, 0) for x in (taps, early, target)
        )
        features = torch.cat([taps, torch.ones_like(taps[:, :, :1])], dim=2)
        outputs = torch.cat([early, target], dim=2)
        self.gram += features.mT @ features
        self.cross += features.mT @ outputs
        self.squares += outputs.square().sum(1)
        self.own += (early * target).sum(1)
        self.rows += taps.shape[1]

    def variances(self) -> tuple[Tensor, Tensor]:
        """Unexplained and total variance of every t, (O,) each."""
        gram, cross, squares, own = (x / self.rows for x in (self.gram, self.cross, self.squares, self.own))
        mean, output_mean = gram[:, :-1, -1], cross[:, -1]
        cov = gram[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :]
        ridge = _RIDGE * cov.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        cov.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        cross = cross[:, :-1] - mean[:, :, None] * output_mean[:, None, :]
        solved = torch.linalg.solve(cov, cross)
        # What the taps leave of e and of t, and what the one then tells of the other.
        each = own.shape[1]
        whole = squares - output_mean.square()
        early, target = (whole - (cross * solved).sum(1)).split(each, dim=1)
        shared = (
            own
            - output_mean[:, :each] * output_mean[:, each:]
            - (cross[:, :, :each] * solved[:, :, each:]).sum(1)
        )
        explained = torch.where(early > _RIDGE * whole[:, :each], shared**2 / early, 0.0)
        return (target - explained).clamp_min(0).flatten(), whole[:, each:].flatten()


def noise(traced: Traced, layout: Layout, chunks: Chunks, *, rows: int = _ROWS, seed: int = 0) -> np.ndarray:
    """The noise of every coupled channel (by class), of all convolutions that make it together.

    Sums of at most 1 GiB at a time (or one convolution's), for which the original runs once each.
    """
    nodes = {node.name: node for node in traced.module.graph.nodes}
    unexplained, whole = np.zeros(layout.classes), np.zeros(layout.classes)
    for convs in _passes(traced, layout):
        producers: list[_Producer] = []
        watch: dict[str, Observer] = {}
        for conv, module in convs:
            producers.append(_producer(conv, module))
            make = _maker(traced, nodes[conv.node])
            recipe = path(PathName.LOW_TO_LOW, axes_of(module), "paper")
            generator = torch.Generator().manual_seed(seed)  # its own: in chunks of any size, the same places
            each = -(-rows // count_of(chunks))
            watch[conv.node] = _adder(traced, conv, producers[-1], make, recipe, each, generator)
        observe(traced, chunks, watch)
        for producer in producers:
            present = producer.classes != DENSE
            for into, values in zip((unexplained, whole), producer.variances(), strict=True):
                np.add.at(into, producer.classes[present], values.cpu().numpy()[present])
    return np.where(whole > 0, unexplained / np.maximum(whole, 1e-30), 0.0)


def _passes(traced: Traced, layout: Layout) -> Iterator[list[tuple[ConvNode, Conv]]]:
    """Group the convolutions so that the sums of each group fit in memory."""
    some: list[tuple[ConvNode, Conv]] = []
    taken = 0
    for conv in layout.convs:
        module = convolution(traced, conv) if (conv.ids_out != DENSE).any() else None
        if module is None:
            continue
        features, outputs = _sizes(module)
        need = 8 * module.groups * features * (features + outputs)
        if some and taken + need > _MOST_BYTES:
            yield some
            some, taken = [], 0
        some.append((conv, module))
        taken += need
    if some:
        yield some


def _sizes(module: Conv) -> tuple[int, int]:
    """Sizes of a group: its taps and 1, and its outputs."""
    return module.weight[0].numel() + 1, 2 * (module.out_channels // module.groups)


def _producer(conv: ConvNode, module: Conv) -> _Producer:
    features, outputs = _sizes(module)

    def zeros(*size: int) -> Tensor:
        return torch.zeros(module.groups, *size, dtype=torch.float64, device=module.weight.device)

    return _Producer(
        conv.ids_out,
        module.groups,
        zeros(features, features),
        zeros(features, outputs),
        zeros(outputs),
        zeros(outputs // 2),
    )


def _maker(traced: Traced, node: fx.Node) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Map a convolution's output y to ``act(P z)`` and ``P act(z)``: BatchNorm and activation, if alone."""
    norm = None
    act: Callable[[Tensor], Tensor] | None = None
    follower = only_user(node)
    if follower is not None and (module := traced.submodule(follower)) is not None and is_affine_norm(module):
        norm, act = module, inner_activation(module)
        follower = only_user(follower)
    if act is None and follower is not None:
        act = elementwise(traced, follower)

    def make(y: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = scale_and_shift(norm, y.shape[1], y)
        shape = (-1, *(1,) * (y.ndim - 2))
        z = y * scale.reshape(shape) + shift.reshape(shape)
        return (pool(z), pool(z)) if act is None else (act(pool(z)), pool(act(z)))

    return make


def _adder(
    traced: Traced,
    conv: ConvNode,
    producer: _Producer,
    make: Callable[[Tensor], tuple[Tensor, Tensor]],
    recipe: Path,
    per_image: int,
    generator: torch.Generator,
) -> Observer:
    def add(x: Tensor, y: Tensor) -> None:
        x, y = channels_second(traced, conv, x, y)
        early, target = make(y)
        where = sample(len(target), target.shape[2:], max(1, per_image), generator, y.device)
        taps = read_taps(pool(x), recipe, where.image, where.at)
        producer.add(taps, where.pick(early), where.pick(target))

    return add
