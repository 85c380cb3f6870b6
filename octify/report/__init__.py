"""What a conversion won, what it left alone, and why. Reading and showing a report needs no torch."""

from octify.report.model import LayerRow, Left, Report, Totals

__all__ = ["LayerRow", "Left", "Report", "Totals"]
