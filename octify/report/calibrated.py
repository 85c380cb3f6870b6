"""A conversion's report, with what calibration did to it."""

from __future__ import annotations

from dataclasses import replace

from octify.calibrate.allocate_target import Allocation, Rival
from octify.calibrate.compare import Agreement
from octify.calibrate.recipe import Calibrated
from octify.plan.rotation import Rotation
from octify.report.allocation import AllocationRow, RivalRow, SetRow
from octify.report.build import UNCALIBRATED
from octify.report.calibration import BranchError, CalibrationRow, OutputError, RotationRow
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
        tuple(_rotation(rotation) for rotation in calibrated.plan.rotations),
    )
    warnings = tuple(w for w in report.warnings if w != UNCALIBRATED)
    told = (*warnings, *calibrated.warnings)
    return replace(report, calibration=row, warnings=told, spectrum=calibrated.spectrum)


def with_allocation(report: Report, allocation: Allocation) -> Report:
    """``report`` with how its alphas were chosen to meet a target."""
    totals = report.totals
    row = AllocationRow(
        allocation.target.kind,
        allocation.target.value,
        totals.macs_after / totals.macs_before if totals.macs_before else 1.0,
        allocation.chosen,
        allocation.why,
        tuple(SetRow(each.paths, each.alpha) for each in allocation.sets),
        None if allocation.per_set is None else _rival(allocation.per_set),
        _rival(allocation.uniform),
        allocation.uniform_alpha,
        allocation.effort,
        allocation.trials,
    )
    return replace(report, allocation=row)


def _rival(rival: Rival) -> RivalRow:
    return RivalRow(rival.macs_ratio, rival.relative_error)


def _rotation(rotation: Rotation) -> RotationRow:
    writers = tuple(writer.path for writer in rotation.writers)
    return RotationRow(writers, rotation.channels, rotation.low, rotation.lost_before, rotation.lost)


def _output(agreement: Agreement) -> OutputError:
    return OutputError(agreement.relative_error, agreement.agreement)
