"""Channels chosen by the error that remains after refitting.

For every convolution that reads coupled channels, one covariance over sampled positions of
``[taps of x, taps of Pi x, y]`` from the original. With the features A now read (the taps of x for
high, of Pi x for low channels), ``Q = cov_AA^-1`` and ``S = Q cov_AY``, making channel c low takes
away its taps H and gives its taps L:

    lost    tr(S_H' Q_HH^-1 S_H)
    regained tr(r' M^-1 r),   r = cov_LY - cov_LA S + B_H Q_HH^-1 S_H,
                              M = cov_LL - B cov_AL + B_H Q_HH^-1 B_H',   B = cov_LA Q

(block matrix inversion). Outputs are weighted by their Fisher information. A sixteenth of the
channels is chosen at a time.

That takes the low channel for ``P`` of the original's. What the converted network makes of it at
half resolution is only partly that: with the share ``noise_c`` (``octify.calibrate.production``) of its
variance lost, only ``1 - noise_c`` of what it would regain is regained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from octify.calibrate.channels import Chunks, choices, with_channels
from octify.calibrate.observe import Observer, observe, sensitivity
from octify.calibrate.production import noise
from octify.calibrate.rows import read_taps, sample
from octify.kernels import path
from octify.layout import DENSE, ConvNode, Ids, Layout, Mask
from octify.nn.conv import axes_of
from octify.nn.functional import project
from octify.ops.conv import is_depthwise
from octify.ops.linear import conv_form
from octify.plan.model import Plan
from octify.plan.resolve import resolve
from octify.trace import Traced

ROUNDS = 16
_RIDGE = 1e-2  # of the mean variance of a tap
_FISHER_IMAGES = 64


@dataclass
class Reader:
    """A group of a convolution's outputs, and the covariance of what it reads.

    covariance:
        Of ``[taps of x (channel-major), taps of Pi x, y]``.
    """

    classes: Ids
    taps: int
    outputs: int
    total: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    rows: int = 0

    def add(self, features: Tensor) -> None:
        self.total += (features.T @ features).to(self.total)
        self.mean += features.sum(0).to(self.mean)
        self.rows += len(features)

    def covariance(self, weights: Tensor) -> Tensor:
        """The covariance, with the outputs scaled to have importance ``weights`` (O,)."""
        mean = self.mean / self.rows
        cov = self.total / self.rows - mean[:, None] * mean[None, :]
        scale = torch.cat([cov.new_ones(len(cov) - self.outputs), weights.to(cov).sqrt()])
        return cov * scale[:, None] * scale[None, :]


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
    noisy = noise(traced, layout, chunks, seed=seed)
    readers = _collect(traced, layout, chunks, rows, seed, noisy)
    low = np.zeros_like(resolved.low)
    sets = choices(layout)
    for done, members in enumerate(sets):
        progress("choosing channels", done, len(sets))
        wanted = [int(resolved.low[cell].sum()) for cell in members]
        if any(wanted):
            _choose_set(members, wanted, readers, low)
    return with_channels(plan, layout, low)


def _choose_set(
    members: Sequence[Ids], wanted: Sequence[int], readers: Sequence[_Weighted], low: Mask
) -> None:
    """Choose the low channels of one coupled set, in place."""
    every = np.concatenate(members)
    touching = [reader for reader in readers if np.isin(reader.classes, every).any()]
    taken = [0] * len(members)
    while any(t < w for t, w in zip(taken, wanted, strict=True)):
        cost = np.zeros(len(low))
        for reader in touching:
            ids, values = reader.costs(low)
            np.add.at(cost, ids, values)
        for i, cell in enumerate(members):
            step = min(wanted[i] - taken[i], max(1, math.ceil(len(cell) / ROUNDS)))
            if step > 0:
                free = cell[~low[cell]]
                low[free[np.argsort(cost[free], kind="stable")[:step]]] = True
                taken[i] += step


class _Weighted:
    """A reader with its importance-weighted covariance, ready to be asked for costs."""

    def __init__(self, reader: Reader, weights: Tensor, noisy: np.ndarray) -> None:
        self.classes, self.taps, self.outputs = reader.classes, reader.taps, reader.outputs
        self.cov = reader.covariance(weights)
        half = (len(self.cov) - self.outputs) // 2
        self.high, self.low = slice(0, half), slice(half, 2 * half)
        diagonal = self.cov.diagonal()
        self.ridge = float(_RIDGE * diagonal[:half].mean().clamp_min(1e-20))
        self.kept = 1 - np.where(self.classes != DENSE, noisy[np.maximum(self.classes, 0)], 0.0)

    def costs(self, low: Mask) -> tuple[Ids, np.ndarray]:
        """Classes of the channels that are high now, and what making each low would cost."""
        n, k = len(self.classes), self.taps
        is_low = torch.from_numpy((self.classes != DENSE) & low[np.maximum(self.classes, 0)])
        free = torch.from_numpy(self.classes != DENSE) & ~is_low
        half = n * k
        index = torch.arange(half)
        active = torch.where(is_low.repeat_interleave(k), index + half, index)
        places = free.nonzero().flatten()
        if not len(places):
            return np.array([], dtype=np.int64), np.array([])
        candidate = (places[:, None] * k + torch.arange(k)).flatten()  # in A; their low taps are + half
        y = slice(2 * half, len(self.cov))
        g_aa = self.cov[active][:, active] + self.ridge * torch.eye(half, dtype=self.cov.dtype)
        q = torch.cholesky_inverse(torch.linalg.cholesky(g_aa))
        s = q @ self.cov[active][:, y]
        g_la = self.cov[candidate + half][:, active]
        b = g_la @ q
        r_all = self.cov[candidate + half][:, y] - g_la @ s
        m, c = len(places), candidate.reshape(-1, k)
        blocks = torch.arange(m * k).reshape(m, k)
        q_hh = q[c[:, :, None], c[:, None, :]]
        s_h = s[c]
        b_h = b[blocks[:, :, None], c[:, None, :]]
        m_full = b.reshape(m, k, half) @ g_la.reshape(m, k, half).transpose(1, 2)
        g_ll = self.cov[(c + half)[:, :, None], (c + half)[:, None, :]]
        solved = torch.linalg.solve(q_hh, torch.cat([s_h, b_h.transpose(1, 2)], dim=2))
        qs, qb = solved[:, :, : self.outputs], solved[:, :, self.outputs :]
        lost = (s_h * qs).sum((1, 2))
        r = r_all.reshape(m, k, -1) + b_h @ qs
        rest = g_ll - m_full + b_h @ qb + self.ridge * torch.eye(k, dtype=self.cov.dtype)
        regained = (r * torch.linalg.solve(rest, r)).sum((1, 2))
        chosen = places.numpy()
        return self.classes[chosen], lost.numpy() - self.kept[chosen] * regained.numpy()


def _collect(
    traced: Traced, layout: Layout, chunks: Chunks, rows: int, seed: int, noisy: np.ndarray
) -> list[_Weighted]:
    """One reader for each group of each convolution that mixes coupled channels."""
    convs = [conv for conv in layout.convs if (conv.ids_in != DENSE).any() and _mixes(traced, conv)]
    images = sum(len(chunk[0]) for chunk in chunks)
    generator = torch.Generator().manual_seed(seed)
    readers: dict[str, list[Reader]] = {}
    watch: dict[str, Observer] = {}
    for conv in convs:
        if conv.node not in readers:
            readers[conv.node] = _readers(traced, conv)
            watch[conv.node] = _adder(traced, conv, readers[conv.node], max(1, -(-rows // images)), generator)
    observe(traced, chunks, watch)
    few = _first_images(chunks, _FISHER_IMAGES)
    fisher = sensitivity(traced, few, list(readers), seed)
    result = []
    for name, group in readers.items():
        weights = fisher.get(name)
        for i, reader in enumerate(group):
            usable = weights is not None and len(weights) == len(group) * reader.outputs
            part = weights.cpu().reshape(len(group), -1)[i] if usable and weights is not None else None
            part = torch.ones(reader.outputs) if part is None else part
            result.append(_Weighted(reader, part, noisy))
    return result


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


def _readers(traced: Traced, conv: ConvNode) -> list[Reader]:
    module = _convolution(traced, conv)
    groups, taps = module.groups, math.prod(module.kernel_size)
    each_in, each_out = module.in_channels // groups, module.out_channels // groups
    size = 2 * taps * each_in + each_out
    return [
        Reader(
            conv.ids_in[g * each_in : (g + 1) * each_in],
            taps,
            each_out,
            torch.zeros(size, size),
            torch.zeros(size),
        )
        for g in range(groups)
    ]


def _adder(
    traced: Traced, conv: ConvNode, readers: Sequence[Reader], per_image: int, generator: torch.Generator
) -> Observer:
    module = _convolution(traced, conv)
    recipe = path("high_to_high", axes_of(module), "paper")
    last = isinstance(traced.module.get_submodule(conv.path), nn.Linear)

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
