"""The linear systems of a branch: what it reads at sampled positions, and what it should give there.

The inputs are those of the converted model, whose earlier convolutions are already repaired; the
targets are the original's values in front of the activation:

    high   z
    low    the y with act(y) = P act(z) where there is one, else P z
           (before a max pool: such that the pool over the low branch gives P of the original's pool)

What the converted model adds behind the convolution (a skip connection with its own error) is
subtracted from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octify.calibrate.fit.activation import Activation, Slopes
from octify.calibrate.fit.linear_form import Block, Branches, Reading
from octify.calibrate.fit.rows import Positions, joined, rows_wanted, sample
from octify.calibrate.fit.sites import Site, Use
from octify.calibrate.inputs.images import count_of
from octify.calibrate.streams.execution import Stream
from octify.nn.channels import split_indices
from octify.nn.functional import low_size, output_sizes, pool
from octify.nn.pool import OctaveMaxPool


@dataclass(frozen=True)
class System:
    """``x @ weights + skip`` should be ``target``, by group: (groups, R, ...).

    activation:
        That of the block's outputs; None if there is none.
    source:
        The number of the image that each row is of, (R,).
    """

    x: Tensor
    target: Tensor
    skip: Tensor | None
    activation: Activation | Slopes | None
    source: Tensor

    def lacking(self, weights: Tensor) -> Tensor:
        """The target less what ``weights`` give."""
        return self.target - self.x @ weights - (0.0 if self.skip is None else self.skip)

    def error(self, predicted: Tensor) -> tuple[float, float]:
        """Mean squared error behind the activation, and the variance there of what it should be.

        ``predicted``: what is in front of it, the skip included.
        """
        target = self.target
        if self.activation is not None:
            predicted, target = (self.activation.apply(_together(y)) for y in (predicted, target))
            spread = target.var(0, correction=0)
        else:
            spread = target.var(1, correction=0)
        return float((predicted - target).square().mean()), float(spread.mean())


def _together(rows: Tensor) -> Tensor:
    """(groups, R, outputs) as (R, groups * outputs)."""
    return rows.movedim(0, 1).flatten(1)


@dataclass(frozen=True)
class FitSamples:
    """Sampled positions of one chunk of images at one call: what is read, and what should be written.

    target, skip:
        (R, channels of the branch).
    source:
        The number of each one's image, (R,).
    """

    reading: Reading
    inputs: Branches
    where: Positions
    target: Tensor
    skip: Tensor | None
    source: Tensor

    def rows(self, block: Block) -> Tensor:
        """Inputs of the block, (groups, R, unknowns)."""
        return self.reading.rows(block, self.inputs, self.where)


class Sampler:
    """Takes samples of a site from original and converted model, which must not have passed it yet."""

    def __init__(
        self, site: Site, teacher: Stream, student: Stream, most: int, generator: torch.Generator, images: int
    ) -> None:
        self.site, self.teacher, self.student = site, teacher, student
        self.most, self.generator, self.images = most, generator, images  # those after are copies of them
        self._readings: dict[tuple[object, ...], Reading] = {}

    def samples(self, branch: str, parts: Sequence[Block]) -> list[FitSamples]:
        """The samples of a branch: as many positions of every image as its largest block needs."""
        images = count_of(self.student.chunks) * len(self.site.uses)
        rows = min(rows_wanted(part.unknowns + 1, part.groups, self.most) for part in parts)
        per_image = max(1, -(-rows // images))
        return [
            self._chunk(use, branch, chunk, inputs, per_image)
            for use in self.site.uses
            for chunk, inputs in enumerate(self._inputs(use))
        ]

    def system(self, samples: Sequence[FitSamples], branch: str, block: Block) -> System:
        """The system of one block."""
        x = joined([s.rows(block) for s in samples], constant=True)
        target = joined([block.grouped(s.target) for s in samples])
        skips = [block.grouped(s.skip) for s in samples if s.skip is not None]
        act = self.site.activation
        if act is not None:
            act = act.channels(self.site.channels(branch)[block.channels])
        source = torch.cat([s.source for s in samples])
        return System(x, target, joined(skips) if skips else None, act, source)

    def _inputs(self, use: Use) -> Iterator[Branches]:
        """Inputs of the call, by chunk: the converted model's branches, or the original's value split."""
        if use.repaired:
            operands: list[Any] = [*use.call.args, None][:2]
            self.student.reach(*(node for node in operands if node is not None))
            values = [None if node is None else self.student.values(node) for node in operands]
            for chunk in range(len(self.student.chunks)):
                high, low = (None if value is None else value[chunk] for value in values)
                yield {"high": high, "low": low}
            return
        indices = split_indices(self.site.conv.in_channels, self.site.conv.low_in)
        for value in self.teacher.values(use.source):
            x = use.as_map(use.source, value)
            high, low = (x[:, list(chosen)] if chosen else None for chosen in indices)
            yield {"high": high, "low": None if low is None else pool(low)}

    def _chunk(self, use: Use, branch: str, chunk: int, inputs: Branches, per_image: int) -> FitSamples:
        size, *needs = output_sizes(inputs["high"], inputs["low"], self.site.conv.axes)
        need = needs[0] if branch == "high" else needs[1]
        z = self._original(use, branch, chunk)
        where = sample(len(z), need, per_image, self.generator, z.device)
        target, skip = self._target(use, branch, z, where), self._skip(use, branch, chunk, where)
        if not self.site.alike:
            target, skip = _alone(target, skip, use, self.site.channels(branch)), None
        before = count_of(self.student.chunks[:chunk])
        source = (before + where.image) % self.images
        return FitSamples(self._reading(size, need), inputs, where, target, skip, source)

    def _reading(self, size: tuple[int, ...], need: tuple[int, ...]) -> Reading:
        if (size, need) not in self._readings:
            self._readings[size, need] = Reading(self.site.conv, size, need)
        return self._readings[size, need]

    def _original(self, use: Use, branch: str, chunk: int) -> Tensor:
        """The original's value in front of the activation, (N, channels of the branch, *size)."""
        channels = self.site.channels(branch)
        end, lift = use.following.end, use.following.lift
        y = use.as_map(end, self.teacher.values(end)[chunk])
        z = y.index_select(1, torch.tensor(channels, device=y.device))
        return z if lift is None else lift.channels(channels)(z)

    def _target(self, use: Use, branch: str, z: Tensor, where: Positions) -> Tensor:
        if branch == "high":
            return where.pick(z)
        plain = where.pick(pool(z))
        if use.following.activation is None:
            return plain
        act = use.following.activation.channels(self.site.low_out)
        activated = act.apply(z)
        low, max_pool = pool(activated), use.following.max_pool
        if max_pool is not None and self.site.conv.kernels == "paper":
            low = low + max_pool_gap(max_pool, activated)
        inverse, valid = act.inverse(where.pick(low))
        return torch.where(valid, inverse, plain)

    def _skip(self, use: Use, branch: str, chunk: int, where: Positions) -> Tensor | None:
        total: Tensor | None = None
        for skip in use.following.skips:
            node = skip.value.high if branch == "high" else skip.value.low
            if node is not None:
                value = self.student.values(node)[chunk]
                # Branches are maps; a dense value has the dimensions of the original's.
                picked = where.pick(value if skip.value.octave else use.as_map(skip.original, value))
                total = picked if total is None else total + picked
        return total


def max_pool_gap(max_pool: nn.Module, activated: Tensor) -> Tensor | float:
    """Difference that the low branch lacks for its octave max pool to give ``P max_pool(activated)``.

    The maximum of block means is not the mean of maxima (of textures it is less). Every sample of a
    window is raised by the same amount, so the maximum stays where it was.
    """
    settings = {name: getattr(max_pool, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    octave = OctaveMaxPool(activated.ndim - 2, ceil_mode=bool(max_pool.ceil_mode), **settings)
    high, low = octave(activated, pool(activated))
    assert high is not None
    gap: Tensor = pool(high) - low
    sizes = list(zip(low_size(activated.shape[2:]), gap.shape[2:], octave.stride, strict=True))
    if not all((m - 1) * s < n <= m * s for n, m, s in sizes):  # an end that no window of its own reaches
        return 0.0
    for axis, (n, _, s) in enumerate(sizes, 2):
        gap = gap.repeat_interleave(s, axis).narrow(axis, 0, n)
    return gap


def _alone(target: Tensor, skip: Tensor | None, use: Use, channels: Sequence[int]) -> Tensor:
    """The target in front of all that follows one of several calls, but the norm."""
    if skip is not None:
        target = target - skip
    fixed = use.following.fixed
    if fixed is None:
        return target
    chosen = fixed.channels(channels)
    scale = torch.where(chosen.invertible, chosen.scale, torch.ones_like(chosen.scale)).to(target)
    return (target - chosen.shift.to(target)) / scale
