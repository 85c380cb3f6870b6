"""Distances of outputs, as calibration measures them and reports hold them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OutputError:
    """Distance of the converted model's outputs from the original's.

    relative_error:
        ``||converted - original|| / ||original - its mean over the inputs||`` (of one input: over
        ``||original||``).
    agreement:
        Share of inputs with the original's argmax; None if the output is not (N, classes).
    """

    relative_error: float
    agreement: float | None


@dataclass(frozen=True)
class Agreement:
    """Distance of two models' outputs on ``inputs`` inputs.

    held_out:
        True if calibration did not use the inputs.
    """

    inputs: int
    held_out: bool
    error: OutputError

    @property
    def relative_error(self) -> float:
        """Relative error of ``error``."""
        return self.error.relative_error

    @property
    def agreement(self) -> float | None:
        """Agreement of ``error``."""
        return self.error.agreement
