"""Section with the table of all layers that multiply."""

from __future__ import annotations

from octify.report.html.numbers import alpha, fixed, kind_of, percent, sizes
from octify.report.html.tables import Cell, Column, TableRow, filters, table
from octify.report.html.tags import Child, tag
from octify.report.model import ReportData
from octify.report.rows import LayerRow

_COLUMNS = (
    Column("path", "layer"),
    Column("kind", "kind"),
    Column("kernel", "kernel"),
    Column("in_channels", "channels in", True),
    Column("out_channels", "channels out", True),
    Column("output_size", "output"),
    Column("alpha_in", "alpha in", True),
    Column("alpha_out", "alpha out", True),
    Column("macs_before", "MMACs before", True),
    Column("macs_after", "MMACs after", True),
    Column("saved", "MACs saved", True),
    Column("parameters_before", "parameters before", True),
    Column("parameters_after", "parameters after", True),
    Column("activation_bytes_before", "activation KiB before", True),
    Column("activation_bytes_after", "activation KiB after", True),
)
_ERROR = Column("error", "calibrated error", True)


def layer_table(report: ReportData) -> Child:
    """Render the filters and the table; after calibration with the larger error of a layer's two branches."""
    errors: dict[str, float] = {}
    for each in report.calibration.layers if report.calibration else ():
        errors[each.path] = max(each.after, errors.get(each.path, 0.0))
    columns = [*_COLUMNS, _ERROR] if errors else list(_COLUMNS)
    rows = [_row(row, errors) for row in report.layers]
    kinds = sorted({kind_of(row.kind) for row in report.layers})
    note = (
        "alpha in and alpha out: share of the layer's input and output channels at half resolution, a dash "
        "where it is dense."
    )
    return [
        tag("p", note),
        filters("layer-table", kinds),
        table("layer-table", "Layers", columns, rows, tall=True),
    ]


def _row(row: LayerRow, errors: dict[str, float]) -> TableRow:
    stride = max(row.stride, default=1)
    kernel = sizes(row.kernel) + (f" stride {stride}" if stride > 1 else "") if row.kernel else ""
    cells = [
        Cell(row.path, row.path),
        Cell(kind_of(row.kind), row.kind),
        Cell(kernel, kernel),
        Cell(str(row.in_channels), row.in_channels),
        Cell(str(row.out_channels), row.out_channels),
        Cell(sizes(row.output_size), "x".join(map(str, row.output_size))),
        Cell(alpha(row.alpha_in), row.alpha_in),
        Cell(alpha(row.alpha_out), row.alpha_out),
        Cell(f"{row.macs_before / 1e6:.2f}", row.macs_before),
        Cell(f"{row.macs_after / 1e6:.2f}", row.macs_after),
        _saved(row),
        Cell(f"{row.parameters_before:,}", row.parameters_before),
        Cell(f"{row.parameters_after:,}", row.parameters_after),
        Cell(f"{row.activation_bytes_before / 1024:.1f}", row.activation_bytes_before),
        Cell(f"{row.activation_bytes_after / 1024:.1f}", row.activation_bytes_after),
    ]
    if errors:
        cells.append(Cell(fixed(errors.get(row.path), 3), errors.get(row.path)))
    form = "octave" if row.alpha_in or row.alpha_out else "dense"
    return TableRow(cells, {"kind": kind_of(row.kind), "form": form})


def _saved(row: LayerRow) -> Cell:
    share = 1 - row.macs_after / row.macs_before if row.macs_before else None
    return Cell(percent(share), share)
