"""Second moments of the inputs of convolutions, for the choice of channels.

For every convolution that reads coupled channels, and every group of its outputs, those of
``[taps of x, taps of Pi x, y]`` over sampled positions of the original's values. Outputs are weighted by
their Fisher information.

Memory, whatever the number and the size of images: moments of at most 1 GiB at a time (or those of
all that read one coupled set), for which the original runs once each, chunk by chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from octify.calibrate.channels.convolution import Conv, channels_second, convolution
from octify.calibrate.channels.pivots import Sweep, swept
from octify.calibrate.fit.gram import add_gram, mirror
from octify.calibrate.fit.rows import read_taps, sample
from octify.calibrate.inputs.images import count_of
from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.observe import Observer, observe, sensitivity
from octify.calibrate.streams.sizes import DOUBLE, PER_NUMBER, of_run
from octify.kernels.convolution import path
from octify.kernels.taps import PathName
from octify.layout.channels import DENSE, ConvNode, Ids, Layout, Mask
from octify.nn.conv import axes_of
from octify.nn.functional import project
from octify.ops.conv import is_depthwise
from octify.progress import Progress, Steps
from octify.trace import Traced

_RIDGE = 1e-2  # of the mean variance of a tap
_FISHER_IMAGES = 64
_MOST_BYTES = 2**30


@dataclass
class Reader:
    """A group of a convolution's outputs, and the second moments of what it reads.

    total, mean:
        Sums over ``rows`` of ``f f'`` (above the diagonal) and of f, for the features f =
        ``[taps of x (channel-major), taps of Pi x, y]``.
    importance:
        Importance of each output, (O,).
    """

    classes: Ids
    taps: int
    outputs: int
    total: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    importance: Tensor = field(repr=False)
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
        fraction of their mean variance, but no less than what rounding the moments to float32 may have
        taken off an eigenvalue: a squeeze-and-excitation layer reads one position of an image, and of
        one image there is no variance.
        """
        n, k = len(self.classes), self.taps
        half = n * k
        is_low = (self.classes != DENSE) & low[np.maximum(self.classes, 0)]
        device = self.total.device
        candidates = np.flatnonzero(np.isin(self.classes, members) & ~is_low)
        places, taps = torch.from_numpy(candidates).to(device), torch.arange(half, device=device)
        is_low_tap = torch.from_numpy(is_low).to(device).repeat_interleave(k)
        active = torch.where(is_low_tap, taps + half, taps)
        high = places[:, None] * k + taps[:k]
        outputs = torch.arange(2 * half, len(self.total), device=device)
        index = torch.cat([active, high.flatten() + half, outputs])
        mean = self.mean.double() / self.rows
        moments = self.total.diagonal()[: 2 * half].double() / self.rows
        variance = (moments - mean[: 2 * half].square())[:half]
        rounding = torch.finfo(self.total.dtype).eps * float(moments.sum())
        ridge = max(_RIDGE * float(variance.mean()), rounding, 1e-20)
        scale = torch.cat([mean.new_ones(2 * half), self.importance.to(mean).sqrt()])[index]
        cov = self.total[index[:, None], index].double().div_(self.rows)
        cov.addr_(mean[index], mean[index], alpha=-1).mul_(scale[:, None]).mul_(scale)
        cov.diagonal()[: -self.outputs].add_(ridge)
        low_taps = half + torch.arange(high.numel(), device=device).reshape(high.shape)
        return self.classes[candidates], Sweep(swept(cov, half), high, low_taps, self.outputs)


def collected(
    traced: Traced,
    layout: Layout,
    sets: Sequence[Sequence[Ids]],
    chunks: Chunks,
    rows: int,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[Sequence[Ids], Sequence[Reader]]]:
    """Each of the coupled sets, in order, with all that read it."""
    convs = {c.node: c for c in layout.convs if (c.ids_in != DENSE).any() and _mixes(traced, c)}
    passes = list(_passes(traced, sets, convs))
    few = _first_images(chunks, _FISHER_IMAGES)
    backward = 3 * of_run(traced, count_of(few))
    runs = [of_run(traced, count_of(chunks)) + _work(traced, touched, rows)[0] for _, touched in passes]
    choosing = [_work(traced, _reading(members, convs), rows)[1] for members in sets]
    steps = Steps(progress, backward + sum(runs) + sum(choosing))
    if passes:
        steps("weighing outputs", backward)
        fisher = sensitivity(traced, few, list(convs), seed)
    for (some, touched), work in zip(passes, runs, strict=True):
        steps("measuring channels", work)
        readers = _collect(traced, touched, chunks, fisher, rows, seed)
        for members in some:
            steps("choosing channels", choosing.pop(0))
            yield members, readers
        readers.clear()  # whoever has them still, before the next are collected


def _passes(
    traced: Traced, sets: Sequence[Sequence[Ids]], convs: Mapping[str, ConvNode]
) -> Iterator[tuple[list[Sequence[Ids]], dict[str, ConvNode]]]:
    """Group the sets, with the convolutions that read them, so that a group's covariances fit in memory."""
    some: list[Sequence[Ids]] = []
    touched: dict[str, ConvNode] = {}
    for members in sets:
        mine = _reading(members, convs)
        if some and sum(_bytes(traced, conv) for conv in (touched | mine).values()) > _MOST_BYTES:
            yield some, touched
            some, touched = [], {}
        some.append(members)
        touched |= mine
    if some:
        yield some, touched


def _reading(members: Sequence[Ids], convs: Mapping[str, ConvNode]) -> dict[str, ConvNode]:
    every = np.concatenate(members)
    return {name: conv for name, conv in convs.items() if np.isin(conv.ids_in, every).any()}


def _work(traced: Traced, convs: Mapping[str, ConvNode], rows: int) -> tuple[int, int]:
    """Work of summing all moments, and of choosing by them."""
    moments = choosing = 0
    for conv in convs.values():
        module = _convolution(traced, conv)
        read = math.prod(module.kernel_size) * module.in_channels // module.groups
        moments += module.groups * of_moments(rows, _features(module))
        choosing += module.groups * of_choice(read)
    return moments, choosing


def _collect(
    traced: Traced,
    convs: Mapping[str, ConvNode],
    chunks: Chunks,
    fisher: Mapping[str, Tensor],
    rows: int,
    seed: int,
) -> list[Reader]:
    """One reader for each group of each convolution, with its moments."""
    readers = {name: _readers(traced, conv, fisher.get(name)) for name, conv in convs.items()}
    watch = {
        name: _adder(traced, conv, readers[name], max(1, -(-rows // count_of(chunks))), seed)
        for name, conv in convs.items()
    }
    observe(traced, chunks, watch)
    every = [reader for group in readers.values() for reader in group]
    for reader in every:
        mirror(reader.total)
    return every


def _first_images(chunks: Chunks, most: int) -> Chunks:
    images, have = [], 0
    for chunk in chunks:
        if have >= most:
            break
        images.append(tuple(x[: most - have] for x in chunk))
        have += len(images[-1][0])
    return images


def _mixes(traced: Traced, conv: ConvNode) -> bool:
    module = traced.module.get_submodule(conv.path)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return not is_depthwise(module)
    return isinstance(module, nn.Linear)


def _convolution(traced: Traced, conv: ConvNode) -> Conv:
    module = convolution(traced, conv)
    assert module is not None, "_mixes leaves out what it is not"
    return module


def _features(module: Conv) -> int:
    """Number of features of each group of a convolution's outputs."""
    return (2 * math.prod(module.kernel_size) * module.in_channels + module.out_channels) // module.groups


def _bytes(traced: Traced, conv: ConvNode) -> int:
    """Memory of the second moments of a convolution's readers, in bytes."""
    module = _convolution(traced, conv)
    return int(4 * module.groups * _features(module) ** 2)


def _readers(traced: Traced, conv: ConvNode, fisher: Tensor | None) -> list[Reader]:
    module = _convolution(traced, conv)
    groups, size = module.groups, _features(module)
    each_in, each_out = module.in_channels // groups, module.out_channels // groups
    usable = fisher is not None and len(fisher) == module.out_channels
    device = module.weight.device  # where they are factored, too: 6 s for a ResNet-50 on a GPU, 140 beside it
    ones = torch.ones(module.out_channels, device=device)
    importance = fisher.to(device) if usable and fisher is not None else ones
    return [
        Reader(
            conv.ids_in[g * each_in : (g + 1) * each_in],
            math.prod(module.kernel_size),
            each_out,
            torch.zeros(size, size, device=device),
            torch.zeros(size, device=device),
            importance[g * each_out : (g + 1) * each_out],
        )
        for g in range(groups)
    ]


def _adder(traced: Traced, conv: ConvNode, readers: Sequence[Reader], per_image: int, seed: int) -> Observer:
    module = _convolution(traced, conv)
    recipe = path(PathName.HIGH_TO_HIGH, axes_of(module), "paper")
    generator = torch.Generator().manual_seed(seed)  # its own: in chunks of any size, the same positions

    def add(x: Tensor, y: Tensor) -> None:
        x, y = channels_second(traced, conv, x, y)
        where = sample(len(y), y.shape[2:], per_image, generator, y.device)
        groups = len(readers)
        high, low = (read_taps(value, recipe, where.image, where.at) for value in (x, project(x)))
        parts = (high, low, where.pick(y))
        features = torch.cat([part.reshape(len(part), groups, -1) for part in parts], dim=2)
        for g, reader in enumerate(readers):
            reader.add(features[:, g])

    return add


def of_moments(rows: int, features: int) -> int:
    """Work of summing the second moments of ``features`` features."""
    return rows * features * (features // 2 + PER_NUMBER)


def of_choice(features: int) -> int:
    """Work of choosing half the channels of which a convolution reads ``features`` numbers."""
    return 6 * DOUBLE * features**3
