"""Section on accuracy: the distance from the original in the outputs and in every layer."""

from __future__ import annotations

from collections.abc import Iterator

from octify.report.allocation import UNITS, AllocationRow, alpha_of
from octify.report.calibration import CalibrationRow
from octify.report.html.numbers import fixed, percent
from octify.report.html.tables import Cell, Column, TableRow, plain_table, table
from octify.report.html.tags import Child, tag
from octify.report.metric import number
from octify.report.model import ReportData
from octify.report.tuning import TuningRow

_NOT = (
    "Not measured: this conversion was made without calibration data. octify convert MODEL --calib DATA "
    "repairs the weights and measures the error."
)


def outputs(report: ReportData) -> Child:
    """Render calibration, the choice of alphas, and training, if there were any."""
    parts: list[Child] = []
    if report.calibration is not None:
        parts += _calibration(report.calibration)
    if report.allocation is not None:
        parts += _allocation(report.allocation)
    for i, row in enumerate(report.tuning):
        parts += _tuning(row, i)
    return parts or tag("p", _NOT)


def _calibration(row: CalibrationRow) -> Iterator[Child]:
    data = "synthetic images" if row.synthetic else "inputs"
    kind = "held-out inputs" if row.held_out else "calibration inputs themselves"
    yield tag(
        "p",
        f"Calibrated with {row.images} {data} (effort {row.effort}, low channels chosen by "
        f"{row.channel_order}); measured on {row.measured_on} {kind}. The relative output error is the norm "
        "of the difference to the original's outputs over the norm of their deviation from their mean.",
    )
    rows = [
        [
            "relative output error",
            fixed(row.before.relative_error, 4),
            fixed(row.after.relative_error, 4),
        ],
        ["same answer as the original", percent(row.before.agreement), percent(row.after.agreement)],
    ]
    if row.before.agreement is None and row.after.agreement is None:
        rows.pop()
    yield plain_table("output-error", "Output error", ["", "uncalibrated", "calibrated"], rows)


def _allocation(row: AllocationRow) -> Iterator[Child]:
    yield tag("h3", f"Target: at most {row.target_value:g} {UNITS.get(row.target, row.target)}")
    yield tag("p", f"{row.why[:1].upper()}{row.why[1:]}.".replace("..", "."))
    ways = [("an alpha for every coupled set", "per set", row.per_set)]
    ways.append((f"alpha {row.uniform_alpha:.3g} everywhere", "uniform", row.uniform))
    rows = [
        [name, fixed(way.macs_ratio, 3), fixed(way.relative_error, 4), "chosen" if row.chosen == key else ""]
        for name, key, way in ways
        if way is not None
    ]
    yield plain_table(
        "ways", "Ways to meet the target", ["", "MACs ratio", "relative output error", ""], rows
    )
    if row.points:
        yield tag("p", "Every model that the search calibrated and measured:")
        yield _trials(row)
    columns = [Column("written_by", "layers that write the channels"), Column("alpha", "alpha", True)]
    sets = [
        TableRow(
            [
                Cell(", ".join(each.written_by), ", ".join(each.written_by)),
                Cell(f"{each.alpha:.3g}", each.alpha),
            ]
        )
        for each in row.sets
    ]
    yield tag("p", "Channels that meet in one addition or depthwise convolution form a coupled set.")
    yield table("sets", "Alpha of every coupled set", columns, sets)


def _trials(row: AllocationRow) -> Child:
    columns = [Column("alpha", "alpha"), Column("macs_ratio", "MACs ratio", True)]
    columns += [Column("error", "relative output error", True), Column("drop", "drop of the metric", True)]
    columns += [Column("keeps", "keeps the target")]
    rows = [
        TableRow(
            [
                Cell(alpha_of(each), each.alpha),
                Cell(fixed(each.macs_ratio, 3), each.macs_ratio),
                Cell(fixed(each.relative_error, 4), each.relative_error),
                Cell(number(each.drop), each.drop),
                Cell("yes" if each.keeps else "no", int(each.keeps)),
            ]
        )
        for each in row.points
    ]
    return table("trials", "Models tried", columns, rows)


def _tuning(row: TuningRow, number: int) -> Iterator[Child]:
    aim = (
        f"labels and {row.distill_weight:.0%} of the original's outputs"
        if row.labels
        else "the original's outputs"
    )
    kind = "held-out" if row.held_out else "training"
    yield tag("h3", f"Trained further: {row.steps} steps of {row.batch} inputs")
    yield tag("p", f"Towards {aim}, on {row.images} inputs; measured on {row.measured_on} {kind} inputs.")
    rows = [
        [
            "relative output error",
            "",
            fixed(row.before.relative_error, 4),
            fixed(row.after.relative_error, 4),
        ],
        ["same answer as the original", "", percent(row.before.agreement), percent(row.after.agreement)],
        [
            "accuracy",
            percent(row.accuracy_original),
            percent(row.accuracy_before),
            percent(row.accuracy_after),
        ],
    ]
    yield plain_table(f"tuning-{number}", "Training", ["", "original", "before", "after"], rows)


def layers(row: CalibrationRow | None) -> Child:
    """Render the error of every branch that was fitted, and list those that were not."""
    if row is None:
        return tag("p", _NOT)
    parts: list[Child] = [
        tag(
            "p",
            "Relative root mean square error of what a converted convolution yields, behind the "
            "normalisation and activation that follow it, against the original's value (low: its 2x2 "
            "means).",
        )
    ]
    columns = [Column("path", "layer"), Column("branch", "channels")]
    columns += [Column("before", "closed form", True), Column("after", "calibrated", True)]
    rows = [
        TableRow(
            [
                Cell(each.path, each.path),
                Cell(each.branch, each.branch),
                Cell(fixed(each.before, 4), each.before),
                Cell(fixed(each.after, 4), each.after),
            ]
        )
        for each in row.layers
    ]
    parts.append(table("error-table", "Error of every layer", columns, rows, tall=True))
    if row.uncalibrated:
        listed = [tag("li", f"{path}: {reason}") for path, reason in row.uncalibrated]
        parts += [tag("p", "These keep the weights that the mathematics gives them:"), tag("ul", listed)]
    return parts
