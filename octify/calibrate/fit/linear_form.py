"""A branch of any octave convolution as linear systems in its weights.

Whatever a path does around its convolution (pooling, upsampling, padding of any mode, spreading by
a transposed convolution), each output is the sum over taps of a weight times one sample of the
path's prepared input. Which sample that is does not depend on the values, so it is found by sending
the samples' numbers through the path itself, with one kernel for each tap that is 1 there.

A grouped convolution is one system for each group. Neighbouring groups with equally many inputs
from each branch are solved together: a ``Block``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octify.calibrate.fit.rows import Positions, rows_as_weight, weight_as_rows
from octify.compat import ConvTransposeNd
from octify.kernels.taps import PATHS, PathName
from octify.nn import OctaveConv
from octify.nn.channels import split_indices
from octify.nn.functional import low_size, octave_axes, pool, upsample
from octify.nn.groups import Grouped, UnevenGroups

Branches = Mapping[str, Tensor | None]


@dataclass(frozen=True)
class Slice:
    """Groups ``first`` to ``first + count`` of a plain convolution of path ``name``.

    channels:
        Place, in the branch that the path reads, of the first channel of these groups; how many there
        are for each group.
    """

    name: PathName
    conv: nn.Module
    transposed: bool
    first: int
    count: int
    channels: tuple[int, int]

    @property
    def unknowns(self) -> int:
        """Weights of one output."""
        return self.channels[1] * self.taps

    @property
    def taps(self) -> int:
        """Taps of the kernel, over all axes."""
        return self.conv.get_parameter("weight")[0, 0].numel()

    def rows(self) -> Tensor:
        """The weights, (groups, I / groups * taps, O / groups)."""
        return self.of(self.conv.get_parameter("weight").detach())

    def of(self, weight: Tensor) -> Tensor:
        """``rows`` of a ``weight`` like the convolution's."""
        whole = weight_as_rows(weight, int(self.conv.groups), self.transposed)  # type: ignore[arg-type]
        return whole[self.first : self.first + self.count]

    def inside(self, rows: Tensor) -> Tensor:
        """A weight like the convolution's that has these ``rows``, and 0 for its other groups."""
        weight = self.conv.get_parameter("weight")
        before, after = self.first, int(self.conv.groups) - self.first - self.count  # type: ignore[arg-type]
        if before or after:
            rows = nn.functional.pad(rows, [0, 0, 0, 0, before, after])
        return rows_as_weight(rows, weight, self.transposed)

    def write(self, rows: Tensor) -> None:
        """Put ``rows`` into the convolution's weight."""
        weight = self.conv.get_parameter("weight")
        if self.count == int(self.conv.groups):  # type: ignore[arg-type]
            weight.data.copy_(rows_as_weight(rows, weight, self.transposed))
        else:
            weight.data.add_(self.inside(rows - self.rows()))


@dataclass(frozen=True)
class Block:
    """Groups of a branch's outputs that have equally many inputs from each path.

    slices:
        Contributions of the paths, the one at the branch's own resolution first.
    first, outputs:
        Place in the branch of the first output channel; outputs of each group.
    """

    slices: tuple[Slice, ...]
    first: int
    groups: int
    outputs: int

    @property
    def channels(self) -> slice:
        """The block's outputs in the branch."""
        return slice(self.first, self.first + self.groups * self.outputs)

    def places(self, first: int) -> slice:
        """The block's outputs in a convolution of which it is the groups from ``first`` on."""
        return slice(first * self.outputs, (first + self.groups) * self.outputs)

    @property
    def unknowns(self) -> int:
        """Weights of one output; the bias is one more."""
        return sum(part.unknowns for part in self.slices)

    def rows(self) -> Tensor:
        """The present weights (groups, unknowns, outputs)."""
        return torch.cat([part.rows() for part in self.slices], dim=1)

    def parted(self, rows: Tensor) -> list[tuple[Slice, Tensor]]:
        """``rows`` (groups, unknowns, outputs) by slice."""
        counts = [part.unknowns for part in self.slices]
        return list(zip(self.slices, torch.split(rows, counts, 1), strict=True))

    def grouped(self, values: Tensor) -> Tensor:
        """The block's part of a branch's values (R, channels), as (groups, R, outputs)."""
        return values[:, self.channels].reshape(len(values), self.groups, -1).movedim(1, 0)


def branch_paths(conv: OctaveConv, branch: str) -> list[tuple[PathName, nn.Module]]:
    """The paths into a branch, the one at the same resolution (which carries the bias) first."""
    names = sorted((n for n in PATHS if n.target == branch), key=lambda n: not n.keeps_resolution)
    return [(name, path) for name in names if (path := getattr(conv, name.value)) is not None]


def blocks(conv: OctaveConv, branch: str) -> list[Block]:
    """The systems that make up a branch, in the order of its channels."""
    ins = dict(zip(("high", "low"), split_indices(conv.in_channels, conv.low_in), strict=True))
    outs = dict(zip(("high", "low"), split_indices(conv.out_channels, conv.low_out), strict=True))
    by_path = {
        name: _leading(conv, name, path, ins[name.split("_")[0]], outs[branch])
        for name, path in branch_paths(conv, branch)
    }
    counts = Grouped.between(ins["high"], conv.in_channels, outs[branch], conv.out_channels, conv.groups).out
    present = [
        g for g in range(conv.groups) if counts[g] and any(g in leading for leading in by_path.values())
    ]

    def kind(group: int) -> tuple[int, ...]:
        parts = [leading[group] for leading in by_path.values() if group in leading]
        return (len(counts[group]), *(id(part.conv) for part in parts))

    systems = []
    for _, same in itertools.groupby(present, kind):
        groups = list(same)
        slices = tuple(
            _first_of(leading[groups[0]], len(groups)) for leading in by_path.values() if groups[0] in leading
        )
        first = sum(len(counts[g]) for g in range(groups[0]))
        systems.append(Block(slices, first, len(groups), len(counts[groups[0]])))
    return systems


def _first_of(part: Slice, count: int) -> Slice:
    return Slice(part.name, part.conv, part.transposed, part.first, count, part.channels)


def _leading(
    conv: OctaveConv, name: PathName, path: nn.Module, into: Sequence[int], out: Sequence[int]
) -> dict[int, Slice]:
    """For every group that the path leads from and to, its slice."""
    runs = Grouped.between(into, conv.in_channels, out, conv.out_channels, conv.groups).runs
    leading = [run for run in runs if run.leads]
    modules = list(path.convs) if isinstance(path, UnevenGroups) else [path]
    return {
        group: Slice(
            name,
            module,
            isinstance(module, ConvTransposeNd),
            place,
            1,
            (run.first_in + place * run.inputs, run.inputs),
        )
        for run, module in zip(leading, modules, strict=True)
        for place, group in enumerate(run.groups)
    }


class Reading:
    """Inputs of the paths of ``conv``, for an input of spatial ``size`` (of its high-frequency branch).

    need:
        Spatial size of the branch that is written.
    """

    def __init__(self, conv: OctaveConv, size: Sequence[int], need: Sequence[int]) -> None:
        self.conv, self.size, self.need = conv, tuple(size), tuple(need)
        self._places: dict[PathName, Tensor] = {}

    def rows(self, block: Block, branches: Branches, where: Positions) -> Tensor:
        """Factors of the block's weights at the positions ``where``: (groups, R, unknowns)."""
        return torch.cat([self._part(part, branches, where) for part in block.slices], dim=2)

    def _part(self, part: Slice, branches: Branches, where: Positions) -> Tensor:
        recipe = self.conv.recipes[part.name]
        x = branches[part.name.split("_")[0]]
        assert x is not None
        first, each = part.channels
        x = x.narrow(1, first, each * part.count)
        if recipe.before == "pool":
            x = pool(x)
        elif recipe.before == "up":
            x = upsample(x, self.size)
        flat = x.flatten(2).transpose(1, 2).contiguous()
        total: Tensor | None = None
        samples = self._samples(part, where)
        for place in samples:
            read = flat[where.image[:, None], (place - 1).clamp_min(0)] * (place > 0)[..., None]
            total = read if total is None else total + read
        assert total is not None
        mean = total / len(samples) if len(samples) > 1 else total  # (R, taps, I)
        rows = mean.reshape(len(mean), part.taps, part.count, each).permute(2, 0, 3, 1)
        return rows.reshape(part.count, len(mean), -1)

    def _samples(self, part: Slice, where: Positions) -> list[Tensor]:
        """Places (R, taps) that each output reads, 0 for a zero: several where outputs are averaged."""
        if part.name not in self._places:
            self._places[part.name] = _places(self.conv, part, self.size, self.need)
        places = self._places[part.name].to(where.image.device)
        inner = places.shape[1:]
        after = self.conv.recipes[part.name].after
        if after == "pool":
            halved = octave_axes(len(inner))
            # At an odd end, and on an axis of one sample, the sample counts twice: the mean is the same.
            each = [
                [2 * p, (2 * p + 1).clamp_max(n - 1)] if half and n > 1 else [p]
                for p, n, half in zip(where.at, inner, halved, strict=True)
            ]
            positions: list[tuple[Tensor, ...]] = list(itertools.product(*each))
        elif after == "up":
            pairs = zip(where.at, inner, self.need, strict=True)
            positions = [tuple(p if small == n else p // 2 for p, small, n in pairs)]
        else:
            positions = [tuple(where.at)]
        return [places.flatten(1)[:, _flat(position, inner)].T for position in positions]


def _flat(position: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Coordinates, one tensor for each axis, as places in a flattened map of ``size``."""
    flat = position[0]
    for p, n in zip(position[1:], size[1:], strict=True):
        flat = flat * n + p
    return flat


def _places(conv: OctaveConv, part: Slice, size: Sequence[int], need: Sequence[int]) -> Tensor:
    """(taps, *inner size): the number, from 1, of the sample that each tap reads; 0 is a padded zero."""
    recipe = conv.recipes[part.name]
    branch_size = low_size(size) if part.name.source == "low" else tuple(size)
    if recipe.before == "pool":
        branch_size = low_size(branch_size)
    elif recipe.before == "up":
        branch_size = tuple(size)
    numbers = torch.arange(1, math.prod(branch_size) + 1, dtype=torch.float64).reshape(1, 1, *branch_size)
    inner = conv.inner_size(part.name, size, need)
    with torch.no_grad():
        positions = conv.convolve(part.name, _probe(part.conv), numbers, inner)
    return positions[0].round().long()


def _probe(conv: nn.Module) -> nn.Module:
    """A convolution of ``conv``'s geometry that reads one channel, each of its outputs with one tap."""
    geometry: Any = conv
    taps = math.prod(geometry.kernel_size)
    settings = {name: getattr(geometry, name) for name in ("stride", "padding", "dilation")}
    transposed = isinstance(conv, ConvTransposeNd)
    if transposed:
        settings["output_padding"] = geometry.output_padding
    probe: nn.Module = _plain(conv)(
        1, taps, geometry.kernel_size, bias=False, dtype=torch.float64, **settings
    )
    ones = torch.eye(taps, dtype=torch.float64).reshape(taps, *geometry.kernel_size)
    probe.weight = nn.Parameter(ones[None] if transposed else ones[:, None], requires_grad=False)
    return probe


def _plain(conv: nn.Module) -> Any:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return next(kind for kind in kinds if isinstance(conv, kind))
