"""An int8 file beside the float file of the same model: size, agreement, time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octify.compare.agreement import Agreement


@dataclass(frozen=True)
class Times:
    """Median milliseconds of one call on one thread, and the speed-up with its 95 % interval."""

    runtime: str
    batch: int
    float_milliseconds: float
    int8_milliseconds: float
    speedup: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "runtime": self.runtime,
            "batch": self.batch,
            "float_milliseconds": self.float_milliseconds,
            "int8_milliseconds": self.int8_milliseconds,
            "speedup": self.speedup,
            "interval": list(self.interval),
        }


@dataclass(frozen=True)
class Int8Result:
    """An int8 ONNX file, and how it compares with the float file of the same model and target.

    bytes, float_bytes:
        Sizes of both files.
    agreement:
        Of the int8 file's outputs with the float file's, in ``runtime``.
    calibrated_on:
        Number of inputs that the ranges were measured on.
    weight_bits:
        8, or 7 for processors without VNNI.
    times:
        None where they were not measured.
    """

    path: Path
    target: str
    runtime: str
    bytes: int
    float_bytes: int
    agreement: Agreement
    calibrated_on: int
    weight_bits: int
    times: Times | None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "path": str(self.path),
            "target": self.target,
            "runtime": self.runtime,
            "bytes": self.bytes,
            "float_bytes": self.float_bytes,
            "agreement": {
                "inputs": self.agreement.inputs,
                "held_out": self.agreement.held_out,
                "relative_error": self.agreement.relative_error,
                "agreement": self.agreement.agreement,
            },
            "calibrated_on": self.calibrated_on,
            "weight_bits": self.weight_bits,
            "times": None if self.times is None else self.times.to_dict(),
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """Lines of text for the terminal."""
        agreement, times = self.agreement, self.times
        share = self.bytes / self.float_bytes
        place = "kept aside" if agreement.held_out else "that it was calibrated on"
        same = (
            "" if agreement.agreement is None else f"same class as the float file {agreement.agreement:.1%}, "
        )
        lines = [
            f"wrote {self.path}: {self.bytes:,} bytes, {share:.2f} of the float file's {self.float_bytes:,}, "
            f"weights of {self.weight_bits} bits",
            f"calibrated on {self.calibrated_on} input(s); on {agreement.inputs} {place}, in {self.runtime}: "
            f"{same}relative error {agreement.relative_error:.4f}",
        ]
        if times is not None:
            low, high = times.interval
            lines.append(
                f"{times.runtime}, one thread, batch {times.batch}: {times.int8_milliseconds:.2f} ms, float "
                f"{times.float_milliseconds:.2f} ms, speed-up {times.speedup:.2f} "
                f"(95 % interval {low:.2f} to {high:.2f})"
            )
        return lines
