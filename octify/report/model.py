"""Data of a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from octify.latency.verdict import PlanTiming
from octify.report.allocation import AllocationRow
from octify.report.calibration import CalibrationRow
from octify.report.metric import MetricRow
from octify.report.rows import BoundaryRow, GraphNode, LayerRow, Left, Totals
from octify.report.spectrum import SpectrumRow
from octify.report.tuning import TuningRow


@dataclass(frozen=True)
class ReportData:
    """Data of a report on a conversion. ``octify.report.report.Report`` adds its display."""

    model: str
    alpha: float | None
    rules: str | None
    kernels: str | None
    inputs: tuple[tuple[int, ...], ...]
    totals: Totals
    layers: tuple[LayerRow, ...]
    left_dense: tuple[Left, ...]
    boundaries: tuple[BoundaryRow, ...]
    warnings: tuple[str, ...]
    calibration: CalibrationRow | None = None
    allocation: AllocationRow | None = None
    graph: tuple[GraphNode, ...] = ()
    spectrum: SpectrumRow | None = None
    tuning: tuple[TuningRow, ...] = ()
    metric: MetricRow | None = None
    timing: PlanTiming | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "model": self.model,
            "alpha": self.alpha,
            "rules": self.rules,
            "kernels": self.kernels,
            "inputs": [list(shape) for shape in self.inputs],
            "totals": self.totals.to_dict(),
            "layers": [asdict(row) for row in self.layers],
            "left_dense": [asdict(left) for left in self.left_dense],
            "boundaries": [asdict(row) for row in self.boundaries],
            "warnings": list(self.warnings),
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "allocation": None if self.allocation is None else self.allocation.to_dict(),
            "graph": [asdict(node) for node in self.graph],
            "spectrum": None if self.spectrum is None else self.spectrum.to_dict(),
            "tuning": [row.to_dict() for row in self.tuning],
            "metric": None if self.metric is None else self.metric.to_dict(),
            "timing": None if self.timing is None else self.timing.to_dict(),
        }
