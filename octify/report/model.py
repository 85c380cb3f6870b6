"""The report as data. MACs are multiply-accumulates; one MAC is two FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from octify.report.allocation import AllocationRow
from octify.report.calibration import CalibrationRow
from octify.report.spectrum import SpectrumRow
from octify.report.tuning import TuningRow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
from octify.report.rows import BoundaryRow, GraphNode, LayerRow, Left, Totals


@dataclass(frozen=True)
class Report:
    """Everything a conversion has to say. ``print(report)`` and ``rich.print(report)`` both work."""

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
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report of ``to_dict``'s form, or of an older version's. Raises ``pydantic.ValidationError``."""
        from octify.artefact.stored import report_of

        return report_of(data)

    def to_html(self) -> str:
        """The report as one HTML page that needs nothing but a browser: no network, no other file."""
        from octify.report.html import conversion_page

        return conversion_page(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from octify.report.terminal import render

        yield from render(self)

    def __str__(self) -> str:
        from octify.report.terminal import as_text

        return as_text(self)
