"""Tables of taps: one axis of a convolution, and one octave path.

``y[i] = sum over offsets o of rows[o] @ w * x[stride * i + o]``, where ``w`` are the original taps along an
axis (``octify.kernels.convolution`` has the algebra).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from octify.errors import InputSizeError
from octify.kernels.choices import Exchange as Exchange
from octify.kernels.choices import Scheme as Scheme

Branch = Literal["high", "low"]
BRANCHES: tuple[Branch, ...] = ("high", "low")
Matrix = npt.NDArray[np.float64]


class PathName(str, Enum):
    """A path of an octave convolution: from its ``source`` branch to its ``target`` branch.

    The value is the name of the path's module in the layer, and of its weights in a state dict.
    """

    HIGH_TO_HIGH = "high_to_high"
    HIGH_TO_LOW = "high_to_low"
    LOW_TO_HIGH = "low_to_high"
    LOW_TO_LOW = "low_to_low"

    @property
    def source(self) -> Branch:
        """The branch that the path reads."""
        return "low" if self in (PathName.LOW_TO_HIGH, PathName.LOW_TO_LOW) else "high"

    @property
    def target(self) -> Branch:
        """The branch that the path adds to."""
        return "low" if self in (PathName.HIGH_TO_LOW, PathName.LOW_TO_LOW) else "high"

    @property
    def keeps_resolution(self) -> bool:
        """Return whether the path leads from a branch to itself."""
        return self.source == self.target

    def __str__(self) -> str:
        return str(self.value)


PATHS = tuple(PathName)


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution: all lengths in samples of that axis.

    ``octave`` says whether low-frequency channels are halved along it.
    """

    taps: int
    stride: int = 1
    pad_left: int = 0
    pad_right: int = 0
    dilation: int = 1
    octave: bool = True

    def output_length(self, length: int) -> int:
        """Length of the convolution's output for an input of ``length``."""
        return (
            length + self.pad_left + self.pad_right - self.dilation * (self.taps - 1) - 1
        ) // self.stride + 1


@dataclass(frozen=True)
class SameAxis(Axis):
    """An axis padded so that the output has ceil(n / stride) samples at any input length n.

    ``pad_left`` and ``pad_right`` are those of one length. At lengths whose padding differs the octave
    kernels keep this ``pad_left``: an output then looks at most one sample aside.
    """

    def output_length(self, length: int) -> int:
        return -(-length // self.stride)


@dataclass(frozen=True)
class SingleAxis(Axis):
    """An axis along which the map has one sample before the convolution and one after it.

    The sample is its own mean: ``P`` and ``U`` leave it alone, and every path has the convolution's taps.
    """

    octave: bool = False

    def output_length(self, length: int) -> int:
        """One. Raises InputSizeError at any other length: the kernels are not those of a halved axis."""
        if length != 1:
            raise InputSizeError(
                "the model was converted for other input sizes",
                why=f"a convolution whose input had one sample along an axis gets one of {length} there",
                hint="convert the model with example inputs of this size, for instance --input 1x3x224x224",
            )
        return 1


@dataclass(frozen=True)
class Taps:
    """``y[i] = sum_m rows[m] @ w * x[stride * i + start + dilation * m]``; rows is (new taps, old taps)."""

    start: int
    stride: int
    dilation: int
    rows: Matrix

    @property
    def offsets(self) -> list[int]:
        """Input positions read for output 0."""
        return [self.start + self.dilation * m for m in range(len(self.rows))]

    def table(self) -> dict[int, Matrix]:
        """Offset -> weights of the original taps."""
        return dict(zip(self.offsets, self.rows, strict=True))


@dataclass(frozen=True)
class Path:
    """Computation of one of the four paths: ``before``, a convolution, ``after``.

    ``matrices[a]`` maps the original kernel's taps along axis ``a`` to the new ones. The
    convolution reads ``x[stride * i + start + dilation * m]`` along each axis, so ``-start``
    is its left padding. When ``transposed`` it is a transposed convolution of stride 2 whose
    kernel element ``m`` lands on output ``2 i + start + m``. ``kernel_size``: taps per axis.
    """

    before: Literal["", "pool", "up"]
    after: Literal["", "up", "pool"]
    transposed: bool
    starts: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    kernel_size: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        # Stored as numbers: read from the matrices, they would make a compiled forward depend on each.
        object.__setattr__(self, "kernel_size", tuple(len(matrix) for matrix in self.matrices))


def from_table(table: Mapping[int, Matrix], stride: int) -> Taps:
    """The densest regular grid of taps that holds every offset of ``table``."""
    offsets = sorted(table)
    step = math.gcd(*(b - a for a, b in pairwise(offsets))) or 1
    count = (offsets[-1] - offsets[0]) // step + 1
    zero = np.zeros_like(table[offsets[0]])
    rows = [table.get(offsets[0] + step * m, zero) for m in range(count)]
    return Taps(offsets[0], stride, step, np.stack(rows))


def add_row(table: dict[int, Matrix], offset: int, row: Matrix) -> None:
    table[offset] = table[offset] + row if offset in table else row


def plain(axis: Axis) -> Taps:
    """The convolution itself."""
    return Taps(-axis.pad_left, axis.stride, axis.dilation, np.eye(axis.taps))


def on_pooled(taps: Taps) -> Taps | None:
    """The same map written on pooled input, if it reads both samples of every pair alike."""
    if taps.stride % 2:
        return None
    table = taps.table()
    halves = {offset // 2 for offset, row in table.items() if row.any()}  # a grid has empty places
    zero = np.zeros(taps.rows.shape[1])
    pairs = {q: (table.get(2 * q, zero), table.get(2 * q + 1, zero)) for q in halves}
    if not all(np.array_equal(left, right) for left, right in pairs.values()):
        return None
    return from_table({q: left + right for q, (left, right) in pairs.items()}, taps.stride // 2)


def joined(
    parts: Sequence[Taps],
    before: Literal["", "pool", "up"] = "",
    after: Literal["", "up"] = "",
    transposed: bool = False,
) -> Path:
    return Path(
        before,
        after,
        transposed,
        tuple(part.start for part in parts),
        tuple(part.stride for part in parts),
        tuple(part.dilation for part in parts),
        tuple(part.rows for part in parts),
    )


def per_axis(axes: Sequence[Axis], rule: Mapping[Axis, Taps]) -> list[Taps]:
    return [rule[axis] if axis.octave else plain(axis) for axis in axes]


def octave_axes(axes: Sequence[Axis]) -> list[Axis]:
    return list(dict.fromkeys(axis for axis in axes if axis.octave))
