"""The report and its display: on a terminal, as a page, as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from octify.report.html import conversion_page
from octify.report.model import ReportData
from octify.report.terminal import as_text, render

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


@dataclass(frozen=True)
class Report(ReportData):
    """Report of a conversion. Both ``print(report)`` and ``rich.print(report)`` display it."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Load a report from ``to_dict``'s form; entries that an older version did not write are empty.

        Raises ``pydantic.ValidationError`` when an entry is missing or of the wrong kind.
        """
        document = dict(data)
        calibration = document.get("calibration")
        if isinstance(calibration, Mapping) and isinstance(calibration.get("uncalibrated"), list):
            pairs = [(each["path"], each["reason"]) for each in calibration["uncalibrated"]]
            document["calibration"] = {**calibration, "uncalibrated": pairs}
        return TypeAdapter(cls).validate_python(document)

    def to_html(self) -> str:
        """Render the report as one self-contained HTML page: no network, no other file."""
        return conversion_page(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from render(self)

    def __str__(self) -> str:
        return as_text(self)
