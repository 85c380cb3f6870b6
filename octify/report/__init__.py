"""What a conversion won, what it left alone, and why. Reading and showing a report needs no torch."""

from octify.report.report import Report
from octify.report.rows import LayerRow, Left, Totals

__all__ = ["LayerRow", "Left", "Report", "Totals"]
