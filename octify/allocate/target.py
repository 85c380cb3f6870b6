"""Target of a search, and its outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from octify.errors import OctifyError


@dataclass(frozen=True)
class Target:
    """Upper bound on the share of the original's MACs, or on the relative output error."""

    kind: Literal["macs", "error"]
    value: float

    @classmethod
    def of(cls, macs: float | None, error: float | None) -> Target | None:
        """Target of the two options; None when both are None. Raises OctifyError."""
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
    """Share of low channels of a coupled set, which is named by the convolutions that write it."""

    paths: tuple[str, ...]
    alpha: float


@dataclass(frozen=True)
class Rival:
    """Candidate: its MACs over the original's, and its output error where it was measured."""

    macs_ratio: float
    relative_error: float | None


@dataclass(frozen=True)
class Allocation:
    """Choice that meets a target, and its rival.

    chosen:
        ``"per set"`` or ``"uniform"``.
    why:
        Reason in one sentence.
    uniform_alpha:
        Alpha of the uniform rival.
    effort:
        Calibration effort with which both were measured, on the inputs of the report.
    trials:
        Number of calibrated models measured during the search for a target error.
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
