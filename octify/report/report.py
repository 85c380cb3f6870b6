"""The report, and how it is shown: on a terminal, as a page, as JSON."""

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
    """Everything a conversion has to say. ``print(report)`` and ``rich.print(report)`` both work."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report of ``to_dict``'s form; what an older version did not write is empty.

        Raises ``pydantic.ValidationError`` when an entry is missing or of the wrong kind.
        """
        document = dict(data)
        calibration = document.get("calibration")
        if isinstance(calibration, Mapping) and isinstance(calibration.get("uncalibrated"), list):
            pairs = [(each["path"], each["reason"]) for each in calibration["uncalibrated"]]
            document["calibration"] = {**calibration, "uncalibrated": pairs}
        return TypeAdapter(cls).validate_python(document)

    def to_html(self) -> str:
        """The report as one HTML page that needs nothing but a browser: no network, no other file."""
        return conversion_page(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from render(self)

    def __str__(self) -> str:
        return as_text(self)
