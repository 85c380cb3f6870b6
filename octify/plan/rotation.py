"""Rotations: the basis of a stream's channels, as stored in a plan.

Channel numbers of a plan count in its bases, so a plan without its matrices could not be replayed. Any
invertible matrix is as exact as another: entries are kept in half precision, and what stands in the plan is
the basis itself, not an approximation of it. 112 channels take 33 kB.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from octify.errors import PlanError
from octify.plan.document import StrictDocument

Matrix = npt.NDArray[np.float64]
_WORST = 1e4  # condition number; a matrix that is singular in half precision has no inverse to speak of


@dataclass(frozen=True)
class RotatedWriter:
    """A layer that writes a rotated stream.

    norm:
        Path of the BatchNorm behind it; None if there is none.
    spread:
        For each new channel of that BatchNorm's output, its variance over what it would be were the old
        channels uncorrelated; little-endian float16 in base64, empty without a norm. It keeps the running
        variance what training would find.
    """

    path: str
    norm: str | None = None
    spread: str = ""

    def variances(self) -> Matrix:
        """``spread`` as numbers, (C,)."""
        return _numbers(self.spread)


@dataclass(frozen=True)
class Rotation:
    """One stream in another basis: new channels ``R x`` of old channels ``x``.

    matrix:
        ``R`` (C, C), row by row, little-endian float16 in base64.
    low:
        Number of low channels in the plan that it was chosen for.
    lost_before, lost:
        Share of the high-frequency energy, as its readers weigh it, that so many low channels lose: the
        best ones of the old basis, and those of this one.
    """

    channels: int
    writers: tuple[RotatedWriter, ...]
    readers: tuple[str, ...]
    matrix: str
    low: int = 0
    lost_before: float = 0.0
    lost: float = 0.0

    @property
    def name(self) -> str:
        """The path of what writes the stream first."""
        return self.writers[0].path

    def basis(self) -> Matrix:
        """``R`` as numbers, (C, C)."""
        return _numbers(self.matrix).reshape(self.channels, self.channels)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "channels": self.channels,
            "writers": [{"path": w.path, "norm": w.norm, "spread": w.spread} for w in self.writers],
            "readers": list(self.readers),
            "low": self.low,
            "lost_before": self.lost_before,
            "lost": self.lost,
            "matrix": self.matrix,
        }


def encoded(values: npt.ArrayLike) -> str:
    """Encode numbers as a plan stores them."""
    return base64.b64encode(np.asarray(values, dtype="<f2").tobytes()).decode("ascii")


def _numbers(text: str) -> Matrix:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float64)


class _Writer(StrictDocument):
    path: str
    norm: str | None = None
    spread: str = ""


class RotationDocument(StrictDocument):
    """The form of one rotation in plan.json."""

    channels: int = Field(gt=1)
    writers: list[_Writer] = Field(min_length=1)
    readers: list[str] = Field(min_length=1)
    matrix: str
    low: int = Field(0, ge=0)
    lost_before: float = 0.0
    lost: float = 0.0

    def rotation(self, where: str | None) -> Rotation:
        """The rotation, checked. Raises PlanError."""
        writers = tuple(RotatedWriter(w.path, w.norm, w.spread) for w in self.writers)
        result = Rotation(
            self.channels, writers, tuple(self.readers), self.matrix, self.low, self.lost_before, self.lost
        )
        for writer in writers:
            length = self.channels if writer.norm is not None else 0
            _check(result.name, f"spread of {writer.path}", writer.spread, (length,), where)
        _check(result.name, "matrix", self.matrix, (self.channels, self.channels), where)
        if not np.linalg.cond(result.basis()) <= _WORST:
            raise _wrong(result.name, "its matrix cannot be inverted", where)
        if any(bool((writer.variances() <= 0).any()) for writer in writers):
            raise _wrong(result.name, "a spread is not positive", where)
        return result


def _check(name: str, what: str, text: str, shape: Sequence[int], where: str | None) -> None:
    try:
        values = _numbers(text)
    except (binascii.Error, ValueError) as error:
        raise _wrong(name, f"its {what} is no base64 of 16-bit numbers: {error}", where) from None
    if values.size != int(np.prod(shape)) or not np.isfinite(values).all():
        expected = "x".join(map(str, shape))
        raise _wrong(name, f"its {what} has {values.size} numbers, or some not finite, for {expected}", where)


def _wrong(name: str, why: str, where: str | None) -> PlanError:
    return PlanError(
        f"the rotation of what {name} writes is not valid",
        where=where,
        why=why,
        hint="leave matrices as octify wrote them, or make a new plan",
    )


def rotations_of(documents: Sequence[RotationDocument], where: str | None) -> tuple[Rotation, ...]:
    """All rotations of a plan, checked: each stream once. Raises PlanError."""
    rotations = tuple(document.rotation(where) for document in documents)
    owner: dict[str, Rotation] = {}
    for rotation in rotations:
        for writer in rotation.writers:
            if owner.setdefault(writer.path, rotation) is not rotation:
                raise _wrong(rotation.name, f"{writer.path} writes another rotated value, too", where)
    return rotations
