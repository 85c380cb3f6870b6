"""What a conversion won, what it left alone, and why."""

from octify.report.build import build_report, profile_report
from octify.report.model import LayerRow, Left, Report, Totals

__all__ = ["LayerRow", "Left", "Report", "Totals", "build_report", "profile_report"]
