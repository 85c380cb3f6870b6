"""How well a channel can be made at half resolution.

A low channel is not ``P`` of the original's channel but what a convolution and its activation make
of pooled inputs: rectified textures have a mean that pooled inputs do not tell. The share of
``P act(z)`` that least squares on the taps of ``P x`` and on ``act(P z)`` leaves unexplained is that
channel's *noise*: 0 for a channel that is made as well at half resolution, near 1 for a lost one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx, nn

from octify.calibrate.affine import scale_and_shift
from octify.calibrate.channels import Chunks
from octify.calibrate.following import elementwise, inner_activation, is_affine_norm, only_user
from octify.calibrate.images import count_of
from octify.calibrate.observe import Observer, observe
from octify.calibrate.rows import read_taps, sample
from octify.kernels import Path, path
from octify.layout import DENSE, ConvNode, Ids, Layout
from octify.nn.conv import axes_of
from octify.nn.functional import pool
from octify.ops.linear import conv_form
from octify.trace import Traced

_RIDGE = 1e-2  # of the mean variance of a tap
_ROWS = 10_000


@dataclass
class _Producer:
    """Second moments of ``[taps of P x, 1, act(P z), P act(z)]`` of one convolution, by group."""

    classes: Ids
    groups: int
    outputs: int
    total: Tensor = field(repr=False)
    rows: int = 0

    def add(self, taps: Tensor, early: Tensor, target: Tensor) -> None:
        """Taps (R, I, K), ``act(P z)`` (R, O) and ``P act(z)`` (R, O)."""
        rows = len(taps)
        parts = (
            taps.reshape(rows, self.groups, -1),
            taps.new_ones(rows, self.groups, 1),
            early.reshape(rows, self.groups, -1),
            target.reshape(rows, self.groups, -1),
        )
        features = torch.cat(parts, dim=2).movedim(1, 0)
        self.total = self.total + (features.transpose(1, 2) @ features).double().cpu()
        self.rows += rows

    def variances(self) -> tuple[Tensor, Tensor]:
        """Of every output channel: unexplained, and in total, (O,) each."""
        each = self.outputs // self.groups
        known = self.total.shape[1] - 2 * each - 1
        second = self.total / self.rows
        mean = second[:, known, :]
        cov = second - mean[:, :, None] * mean[:, None, :]
        diagonal = cov.diagonal(dim1=1, dim2=2)
        ridge = _RIDGE * diagonal[:, :known].mean(1).clamp_min(1e-12)
        gram = cov[:, :known, :known] + ridge[:, None, None] * torch.eye(known, dtype=cov.dtype)
        cross = cov[:, :known, known + 1 :]
        solved = torch.linalg.solve(gram, cross)
        # What the taps leave of act(P z) and of P act(z), and what the one then tells of the other.
        left = diagonal[:, known + 1 :] - (cross * solved).sum(1)
        early, target = left[:, :each], left[:, each:]
        own = cov[:, known + 1 : known + 1 + each, known + 1 + each :].diagonal(dim1=1, dim2=2)
        shared = own - (cross[:, :, :each] * solved[:, :, each:]).sum(1)
        told = torch.where(early > _RIDGE * diagonal[:, known + 1 : known + 1 + each], shared**2 / early, 0.0)
        return (target - told).clamp_min(0).flatten(), diagonal[:, known + 1 + each :].flatten()


def noise(traced: Traced, layout: Layout, chunks: Chunks, *, rows: int = _ROWS, seed: int = 0) -> np.ndarray:
    """The noise of every coupled channel (by class), of all convolutions that make it together."""
    images = count_of(chunks)
    nodes = {node.name: node for node in traced.module.graph.nodes}
    producers: dict[str, _Producer] = {}
    watch: dict[str, Observer] = {}
    for conv in layout.convs:
        module = conv_form(traced.module.get_submodule(conv.path), 2)
        if not (conv.ids_out != DENSE).any() or not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            continue
        producers[conv.node] = _producer(conv, module)
        make = _maker(traced, nodes[conv.node])
        recipe = path("low_to_low", axes_of(module), "paper")
        last = isinstance(traced.module.get_submodule(conv.path), nn.Linear)
        generator = torch.Generator().manual_seed(seed)  # its own: in chunks of any size, the same positions
        watch[conv.node] = _adder(producers[conv.node], make, recipe, -(-rows // images), generator, last)
    observe(traced, chunks, watch)
    unexplained, whole = np.zeros(layout.classes), np.zeros(layout.classes)
    for producer in producers.values():
        present = producer.classes != DENSE
        for into, values in zip((unexplained, whole), producer.variances(), strict=True):
            np.add.at(into, producer.classes[present], values.numpy()[present])
    return np.where(whole > 0, unexplained / np.maximum(whole, 1e-30), 0.0)


def _producer(conv: ConvNode, module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> _Producer:
    groups, outputs = module.groups, module.out_channels
    size = module.weight[0].numel() + 1 + 2 * (outputs // groups)
    return _Producer(conv.ids_out, groups, outputs, torch.zeros(groups, size, size, dtype=torch.float64))


def _maker(traced: Traced, node: fx.Node) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """From a convolution's output y to ``act(P z)`` and ``P act(z)``: BatchNorm and activation, if alone."""
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
    producer: _Producer,
    make: Callable[[Tensor], tuple[Tensor, Tensor]],
    recipe: Path,
    per_image: int,
    generator: torch.Generator,
    last: bool,
) -> Observer:
    def add(x: Tensor, y: Tensor) -> None:
        x, y = (t.movedim(-1, 1) if last else t for t in (x, y))
        early, target = make(y)
        where = sample(len(target), target.shape[2:], max(1, per_image), generator, y.device)
        taps = read_taps(pool(x), recipe, where.image, where.at)
        producer.add(taps, where.pick(early), where.pick(target))

    return add
