"""Channels chosen by the error that remains after refitting.

For every convolution that reads coupled channels, one covariance over sampled positions of
``[taps of x, taps of Pi x, y]`` from the original says what making a channel low costs once the
convolution is refitted (``sweep`` has the formulas). Outputs are weighted by their Fisher
information. A sixteenth of the channels is chosen at a time.

That takes the low channel for ``P`` of the original's. What the converted network makes of it at
half resolution is not (``production.noise``); of what is regained that share is lost again, and more
than once: along a residual stream it accumulates.

Memory, whatever the number and the size of images: covariances of at most 1 GiB at a time (or
those of one coupled set), for which the original runs again, and the swept ones of one coupled set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from octify.calibrate.channels import Chunks, choices, with_channels
from octify.calibrate.gram import add_gram, mirror
from octify.calibrate.observe import Observer, observe, sensitivity
from octify.calibrate.production import noise
from octify.calibrate.rows import read_taps, sample
from octify.calibrate.sweep import Sweep, swept
from octify.kernels import path
from octify.layout import DENSE, ConvNode, Ids, Mask
from octify.nn.conv import axes_of
from octify.nn.functional import project
from octify.ops.conv import is_depthwise
from octify.ops.linear import conv_form
from octify.plan.model import Plan
from octify.plan.resolve import resolve
from octify.trace import Traced

ROUNDS = 16
_RIDGE = 1e-2  # of the mean variance of a tap
_NOISE = 3.0  # 1 to 10 are alike
_FISHER_IMAGES = 64
_MOST_BYTES = 2**30  # of covariances that are collected in one run of the original


@dataclass
class Reader:
    """A group of a convolution's outputs, and the second moments of what it reads.

    total, mean:
        Sums over ``rows`` of ``f f'`` (above the diagonal) and of f, for the features f =
        ``[taps of x (channel-major), taps of Pi x, y]``.
    importance:
        Of each output, (O,).
    kept:
        Of each channel, (C,): the share of what refitting regains that lasts.
    """

    classes: Ids
    taps: int
    outputs: int
    total: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    importance: Tensor = field(repr=False)
    kept: Tensor = field(repr=False)
    rows: int = 0

    def add(self, features: Tensor) -> None:
        """Add rows (R, features)."""
        features = features.to(self.total)
        add_gram(self.total, features)
        self.mean += features.sum(0)
        self.rows += len(features)

    def sweep(self, low: Mask, members: Ids) -> tuple[Ids, Sweep]:
        """Classes of the channels among ``members`` that are high now, and what says what each costs.

        In double precision. Outputs are scaled to have their importance; features get a ridge, a
        fraction of their mean variance.
        """
        n, k = len(self.classes), self.taps
        half = n * k
        is_low = (self.classes != DENSE) & low[np.maximum(self.classes, 0)]
        places = torch.from_numpy(np.flatnonzero(np.isin(self.classes, members) & ~is_low))
        taps = torch.arange(half)
        active = torch.where(torch.from_numpy(is_low).repeat_interleave(k), taps + half, taps)
        high = places[:, None] * k + torch.arange(k)
        index = torch.cat([active, high.flatten() + half, torch.arange(2 * half, len(self.total))])
        mean = self.mean.double() / self.rows
        variance = self.total.diagonal()[:half].double() / self.rows - mean[:half].square()
        ridge = float(_RIDGE * variance.mean().clamp_min(1e-20))
        scale = torch.cat([mean.new_ones(2 * half), self.importance.to(mean).sqrt()])[index]
        cov = self.total[index[:, None], index].double().div_(self.rows)
        cov.addr_(mean[index], mean[index], alpha=-1).mul_(scale[:, None]).mul_(scale)
        cov.diagonal()[: -self.outputs].add_(ridge)
        return self.classes[places.numpy()], Sweep(
            swept(cov, half),
            high,
            half + torch.arange(high.numel()).reshape(high.shape),
            self.outputs,
            self.kept[places],
        )


def by_greedy(
    traced: Traced,
    plan: Plan,
    chunks: Chunks,
    *,
    rows: int = 20_000,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Plan:
    """``plan`` with the low channels whose loss is repaired best by refitting."""
    resolved = resolve(traced, plan)
    layout = resolved.layout
    convs = {c.node: c for c in layout.convs if (c.ids_in != DENSE).any() and _mixes(traced, c)}
    noisy = noise(traced, layout, chunks, seed=seed)
    fisher = sensitivity(traced, _first_images(chunks, _FISHER_IMAGES), list(convs), seed)
    low = np.zeros_like(resolved.low)
    sets = [members for members in choices(layout) if any(resolved.low[cell].any() for cell in members)]
    done = 0
    for some, touched in _passes(traced, sets, convs):
        readers = _collect(traced, touched, chunks, (fisher, noisy), rows, seed)
        for members in some:
            progress("choosing channels", done, len(sets))
            _choose_set(members, [int(resolved.low[cell].sum()) for cell in members], readers, low)
            done += 1
    return with_channels(plan, layout, low)


def _passes(
    traced: Traced, sets: Sequence[Sequence[Ids]], convs: Mapping[str, ConvNode]
) -> Iterator[tuple[list[Sequence[Ids]], dict[str, ConvNode]]]:
    """Coupled sets in order, as many at a time as have covariances that fit, and their readers."""
    some: list[Sequence[Ids]] = []
    touched: dict[str, ConvNode] = {}
    for members in sets:
        every = np.concatenate(members)
        mine = {name: conv for name, conv in convs.items() if np.isin(conv.ids_in, every).any()}
        if some and sum(_bytes(traced, conv) for conv in (touched | mine).values()) > _MOST_BYTES:
            yield some, touched
            some, touched = [], {}
        some.append(members)
        touched |= mine
    if some:
        yield some, touched


def _choose_set(members: Sequence[Ids], wanted: Sequence[int], readers: Sequence[Reader], low: Mask) -> None:
    """Choose the low channels of one coupled set, in place."""
    every = np.concatenate(members)
    touching = [r.sweep(low, every) for r in readers if np.isin(r.classes, every).any()]
    taken = [0] * len(members)
    while True:
        cost = np.zeros(len(low))
        for ids, sweep in touching:
            np.add.at(cost, ids, sweep.costs().numpy())
        for i, cell in enumerate(members):
            step = min(wanted[i] - taken[i], max(1, math.ceil(len(cell) / ROUNDS)))
            if step > 0:
                free = cell[~low[cell]]
                low[free[np.argsort(cost[free], kind="stable")[:step]]] = True
                taken[i] += step
        if taken == list(wanted):
            return
        for i, (ids, sweep) in enumerate(touching):
            sweep.lower(torch.from_numpy(low[ids]))
            touching[i] = (ids[~low[ids]], sweep)


def _collect(
    traced: Traced,
    convs: Mapping[str, ConvNode],
    chunks: Chunks,
    weights: tuple[Mapping[str, Tensor], np.ndarray],
    rows: int,
    seed: int,
) -> list[Reader]:
    """One reader for each group of each convolution, with its moments.

    ``weights`` are the outputs' Fisher information, by node, and the channels' noise, by class.
    """
    fisher, noisy = weights
    images = sum(len(chunk[0]) for chunk in chunks)
    readers = {name: _readers(traced, conv, fisher.get(name), noisy) for name, conv in convs.items()}
    watch = {
        name: _adder(traced, conv, readers[name], max(1, -(-rows // images)), seed)
        for name, conv in convs.items()
    }
    observe(traced, chunks, watch)
    every = [reader for group in readers.values() for reader in group]
    for reader in every:
        mirror(reader.total)
    return every


def _first_images(chunks: Chunks, most: int) -> Chunks:
    found, have = [], 0
    for chunk in chunks:
        if have >= most:
            break
        found.append(tuple(x[: most - have] for x in chunk))
        have += len(found[-1][0])
    return found


def _mixes(traced: Traced, conv: ConvNode) -> bool:
    module = traced.module.get_submodule(conv.path)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return not is_depthwise(module)
    return isinstance(module, nn.Linear)


def _convolution(traced: Traced, conv: ConvNode) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """The convolution itself, or the 1x1 convolution that a linear layer of a channels-last map is."""
    module = conv_form(traced.module.get_submodule(conv.path), 2)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return module


def _features(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> int:
    """How many features each group of a convolution's outputs has."""
    return (2 * math.prod(module.kernel_size) * module.in_channels + module.out_channels) // module.groups


def _bytes(traced: Traced, conv: ConvNode) -> int:
    """Of the second moments of a convolution's readers."""
    module = _convolution(traced, conv)
    return int(4 * module.groups * _features(module) ** 2)


def _readers(traced: Traced, conv: ConvNode, fisher: Tensor | None, noisy: np.ndarray) -> list[Reader]:
    module = _convolution(traced, conv)
    groups, size = module.groups, _features(module)
    each_in, each_out = module.in_channels // groups, module.out_channels // groups
    usable = fisher is not None and len(fisher) == module.out_channels
    importance = fisher.cpu() if usable and fisher is not None else torch.ones(module.out_channels)
    coupled = np.where(conv.ids_in != DENSE, noisy[np.maximum(conv.ids_in, 0)], 0.0)
    kept = torch.from_numpy(1 - np.minimum(1.0, _NOISE * coupled))
    return [
        Reader(
            conv.ids_in[g * each_in : (g + 1) * each_in],
            math.prod(module.kernel_size),
            each_out,
            torch.zeros(size, size),
            torch.zeros(size),
            importance[g * each_out : (g + 1) * each_out],
            kept[g * each_in : (g + 1) * each_in],
        )
        for g in range(groups)
    ]


def _adder(traced: Traced, conv: ConvNode, readers: Sequence[Reader], per_image: int, seed: int) -> Observer:
    module = _convolution(traced, conv)
    recipe = path("high_to_high", axes_of(module), "paper")
    last = isinstance(traced.module.get_submodule(conv.path), nn.Linear)
    generator = torch.Generator().manual_seed(seed)  # its own: in chunks of any size, the same positions

    def add(x: Tensor, y: Tensor) -> None:
        x, y = (t.movedim(-1, 1) if last else t for t in (x, y))
        where = sample(len(y), y.shape[2:], per_image, generator, y.device)
        groups = len(readers)
        high, low = (read_taps(value, recipe, where.image, where.at) for value in (x, project(x)))
        parts = (high, low, where.pick(y))
        features = torch.cat([part.reshape(len(part), groups, -1) for part in parts], dim=2)
        for g, reader in enumerate(readers):
            reader.add(features[:, g].cpu())

    return add
