"""What a conversion has to meet, and how it was met: the data of the search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from octify.errors import OctifyError


@dataclass(frozen=True)
class Target:
    """At most so much of the original's MACs, or at most so large a relative output error."""

    kind: Literal["macs", "error"]
    value: float

    @classmethod
    def of(cls, macs: float | None, error: float | None) -> Target | None:
        """The target of the two options, None when neither is given. Raises OctifyError."""
        if macs is not None and error is not None:
            raise OctifyError(
                "a target for the MACs excludes one for the error",
                why="the cheapest model of an error, or the best of some MACs: one decides",
                hint="with a target for the MACs, --max-error checks the error",
            )
        if macs is not None and not 0 < macs < 1:
            raise OctifyError(
                f"the target for the MACs is {macs:g}",
                why="it is a share of the original's MACs, between 0 and 1",
                hint="--target-macs 0.6",
            )
        if error is not None and not (error > 0 and math.isfinite(error)):
            raise OctifyError(
                f"the target for the error is {error:g}",
                why="it is a relative output error above 0",
                hint="--target-error 0.1",
            )
        if macs is not None:
            return cls("macs", macs)
        return None if error is None else cls("error", error)


@dataclass(frozen=True)
class SetAlpha:
    """The share of low channels of a coupled set, by the convolutions that write it."""

    paths: tuple[str, ...]
    alpha: float


@dataclass(frozen=True)
class Rival:
    """One of the two ways: its MACs over the original's, and its output error where it was measured."""

    macs_ratio: float
    relative_error: float | None


@dataclass(frozen=True)
class Allocation:
    """What was chosen to meet a target, and what the other way would have been.

    chosen:
        ``"per set"`` or ``"uniform"``.
    why:
        In one sentence.
    uniform_alpha:
        Of the uniform rival.
    effort:
        The calibration with which both were measured, on the inputs that the report's are measured on.
    trials:
        Calibrated models that were measured on the way to a target error.
    """

    target: Target
    chosen: Literal["per set", "uniform"]
    why: str
    sets: tuple[SetAlpha, ...]
    per_set: Rival | None
    uniform: Rival
    uniform_alpha: float
    effort: str
    trials: int
