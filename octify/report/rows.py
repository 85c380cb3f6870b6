"""Rows of a report. MACs are multiply-accumulates; one MAC is two FLOPs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octify.report.metric import MetricRow


@dataclass(frozen=True)
class Point:
    """A conversion under one rule set at one alpha. Ratios are after / before.

    error, agreement:
        Relative output error and agreement with the original on held-out inputs, calibrated; None
        without calibration.
    milliseconds, speedup:
        Measured latency per call, and the original's latency over it; None without a measurement.
    metric:
        The user's metric; None without one.
    rules_digest:
        Digest that distinguishes rule files of one name; empty for a built-in rule set.
    """

    rules: str
    alpha: float
    macs: int
    macs_ratio: float
    parameters_ratio: float
    activation_ratio: float
    converted: int
    convolutions: int
    splits: int
    merges: int
    error_uncalibrated: float | None = None
    error: float | None = None
    agreement: float | None = None
    milliseconds: float | None = None
    speedup: float | None = None
    rules_digest: str = ""
    metric: MetricRow | None = None

    @property
    def name(self) -> str:
        """Name, unique within a sweep and valid for a folder: ``default-0.5`` or ``mine-1f00d5e2-0.5``."""
        return point_name(self.rules, self.rules_digest, self.alpha)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"name": self.name} | asdict(self)


def point_name(rules: str, digest: str, alpha: float) -> str:
    """Name of a point; two alphas, however close, have different names."""
    short = f"{alpha:g}"
    written = short if float(short) == alpha else repr(alpha)
    return "-".join(part for part in (Path(rules).stem, digest, written) if part)


@dataclass(frozen=True)
class LayerRow:
    """Layer that multiplies, before and after.

    kind:
        ``dense``, ``grouped``, ``depthwise`` or ``transposed`` convolution, ``linear``, or the
        class or function name.
    output_size:
        Spatial size of its output at the example inputs.
    exchange:
        ``"spatial"`` where it has no paths between high and low channels, ``"high-to-low"`` where it
        has none from low to high ones.
    """

    path: str
    kind: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    in_channels: int
    out_channels: int
    output_size: tuple[int, ...]
    alpha_in: float
    alpha_out: float
    kernels: str | None
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    activation_bytes_before: int
    activation_bytes_after: int
    exchange: str = "full"


@dataclass(frozen=True)
class Left:
    """Convolution that stays dense on both sides, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class BoundaryRow:
    """Split or merge layer: its place in the graph and the operation that needed it."""

    kind: str
    after: str
    before: str
    reason: str


@dataclass(frozen=True)
class GraphNode:
    """Value in the drawing of the network: an operation of the original, a split or a merge.

    kind:
        ``"input"``, ``"output"``, ``"operation"``, ``"split"`` or ``"merge"``.
    path:
        Path of its module; empty for a function.
    operation:
        Class of the module, or name of the function.
    shape:
        Shape of the original's value at the example inputs; empty if it is not a single tensor.
    low_channels:
        Number of its channels at half resolution; 0 for a dense value.
    inputs:
        Names of its operands.
    """

    name: str
    kind: str
    path: str
    operation: str
    shape: tuple[int, ...]
    low_channels: int
    inputs: tuple[str, ...]
    reason: str | None = None


@dataclass(frozen=True)
class Totals:
    """Totals of the network at the example inputs. Bytes count all values the graph computes."""

    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    activation_bytes_before: int
    activation_bytes_after: int
    splits: int
    merges: int
    convolutions: int
    converted: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with FLOPs (2 per MAC) named beside MACs."""
        return asdict(self) | {"flops_before": 2 * self.macs_before, "flops_after": 2 * self.macs_after}
