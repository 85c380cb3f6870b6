"""Reports: what a conversion saved, what it left alone, and why. Reading and showing one needs no torch."""

from octify.report.report import Report
from octify.report.rows import LayerRow, Left, Totals

__all__ = ["LayerRow", "Left", "Report", "Totals"]
