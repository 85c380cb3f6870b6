"""The report's section on calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from octify.compare.agreement import OutputError

_WORST = 8


@dataclass(frozen=True)
class BranchError:
    """Relative root mean square error of one branch of a convolution, behind BatchNorm and skips.

    ``before`` is that of the closed-form weights on the same, repaired, inputs.
    """

    path: str
    branch: str
    before: float
    after: float


@dataclass(frozen=True)
class RotationRow:
    """A value whose channels are in another basis, written by the layers at ``writers``.

    low:
        Number of its low channels.
    lost_before, lost:
        Share of the high-frequency energy seen by its readers that ``low`` low channels lose: with the best
        of the original's channels, and with those of the new basis.
    """

    writers: tuple[str, ...]
    channels: int
    low: int
    lost_before: float
    lost: float


@dataclass(frozen=True)
class CalibrationRow:
    """A calibration: its settings, and the errors before and after, on ``measured_on`` inputs.

    held_out:
        Whether those inputs were kept from calibration.
    uncalibrated:
        Converted convolutions that keep their closed-form weights, with reasons.
    distillation:
        A sentence on its outcome; None without distillation.
    """

    effort: str
    channel_order: str
    synthetic: bool
    images: int
    measured_on: int
    held_out: bool
    before: OutputError
    after: OutputError
    layers: tuple[BranchError, ...]
    uncalibrated: tuple[tuple[str, str], ...]
    distillation: str | None = None
    rotations: tuple[RotationRow, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self) | {
            "uncalibrated": [{"path": path, "reason": reason} for path, reason in self.uncalibrated]
        }


def render_calibration(row: CalibrationRow) -> Iterator[RenderableType]:
    """Render output error and agreement, then the branches with the largest errors."""
    data = "synthetic images" if row.synthetic else "images"
    kind = "held-out" if row.held_out else "calibration"
    table = Table(
        title=f"calibration: {row.effort}, {row.images} {data}, channels by {row.channel_order}",
        title_justify="left",
        header_style="bold",
    )
    table.add_column(f"on {row.measured_on} {kind} inputs")
    for name in ("uncalibrated", "calibrated"):
        table.add_column(name, justify="right")
    table.add_row(
        "relative output error", f"{row.before.relative_error:.4f}", f"{row.after.relative_error:.4f}"
    )
    if row.before.agreement is not None and row.after.agreement is not None:
        table.add_row(
            "same answer as the original", f"{row.before.agreement:.1%}", f"{row.after.agreement:.1%}"
        )
    if row.rotations:
        count = len(row.rotations)
        before, after = (
            sum(getattr(r, name) for r in row.rotations) / count for name in ("lost_before", "lost")
        )
        table.add_row(
            f"high-frequency energy lost by low channels of {count} rotated value{'s' if count > 1 else ''}",
            f"{before:.1%}",
            f"{after:.1%}",
        )
    yield table
    if row.distillation is not None:
        yield Text(row.distillation)
    worst = sorted(row.layers, key=lambda layer: -layer.after)[:_WORST]
    if worst:
        errors = Table(
            "convolution",
            "branch",
            title="largest remaining errors by layer",
            title_justify="left",
            header_style="bold",
        )
        errors.add_column("closed form", justify="right")
        errors.add_column("fitted", justify="right")
        for layer in worst:
            errors.add_row(layer.path, layer.branch, f"{layer.before:.3f}", f"{layer.after:.3f}")
        yield errors
