"""A conversion's report, with what calibration did to it."""

from __future__ import annotations

from dataclasses import replace

from octify.calibrate.compare import Agreement
from octify.calibrate.recipe import Calibrated
from octify.report.build import UNCALIBRATED
from octify.report.calibration import BranchError, CalibrationRow, OutputError
from octify.report.model import Report


def with_calibration(report: Report, calibrated: Calibrated) -> Report:
    """``report`` with the calibration's figures, its warnings in place of the one against having none."""
    row = CalibrationRow(
        calibrated.effort,
        calibrated.channel_order,
        calibrated.synthetic,
        calibrated.images,
        calibrated.after.inputs,
        calibrated.after.held_out,
        _output(calibrated.before),
        _output(calibrated.after),
        tuple(BranchError(e.path, e.branch, e.before, e.after) for e in calibrated.layers),
        tuple(sorted(calibrated.left.items())),
    )
    warnings = tuple(w for w in report.warnings if w != UNCALIBRATED)
    return replace(report, calibration=row, warnings=(*warnings, *calibrated.warnings))


def _output(agreement: Agreement) -> OutputError:
    return OutputError(agreement.relative_error, agreement.agreement)
