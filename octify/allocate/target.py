"""Outcome of a search that met a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from octify.calibrate.options import Target


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
