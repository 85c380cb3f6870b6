"""Two conversions, or two sweeps, side by side. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from octify.latency.rows import LatencyRow, LatencyRows
from octify.report.metric import MetricRow, number
from octify.report.model import ReportData
from octify.report.rows import LayerRow, Point

ABSENT = "-"


@dataclass(frozen=True)
class Side:
    """One of two conversions: the name of its folder, its report, and its latencies if there are any."""

    name: str
    report: ReportData
    latency: LatencyRows | None = None


@dataclass(frozen=True)
class Figure:
    """One quantity of both sides, as numbers or words and as text; ``difference`` is the second's excess."""

    name: str
    a: float | str | None
    b: float | str | None
    shown_a: str
    shown_b: str
    difference: str


@dataclass(frozen=True)
class LayerPair:
    """One layer of both sides. Values are None where a side has no such layer.

    alpha_a, alpha_b:
        Shares of low channels, in and out.
    error_a, error_b:
        Larger relative error of its two branches after calibration.
    """

    path: str
    kind: str
    macs_before: int
    alpha_a: tuple[float, float] | None
    alpha_b: tuple[float, float] | None
    macs_a: int | None
    macs_b: int | None
    error_a: float | None
    error_b: float | None

    @property
    def differs(self) -> bool:
        """Return whether the two sides convert it in different ways."""
        return self.alpha_a != self.alpha_b or self.macs_a != self.macs_b


@dataclass(frozen=True)
class Comparison:
    """Two conversions: totals, accuracy and latency, then every layer."""

    names: tuple[str, str]
    cost: tuple[Figure, ...]
    accuracy: tuple[Figure, ...]
    latency: tuple[Figure, ...]
    layers: tuple[LayerPair, ...]
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def compare(a: Side, b: Side) -> Comparison:
    """Compare two conversions, usually of one model."""
    latency, machines = _latency(a, b)
    return Comparison(
        (a.name, b.name),
        tuple(_cost(a.report, b.report)),
        tuple(_accuracy(a.report, b.report)),
        tuple(latency),
        tuple(_layers(a.report, b.report)),
        (*_remarks(a, b), *machines),
    )


Pair = Sequence[float | None]


def _figure(name: str, pair: Pair, form: str, scale: float = 1.0) -> Figure:
    a, b = pair
    shown = [ABSENT if each is None else format(each / scale, form) for each in (a, b)]
    difference = ABSENT if a is None or b is None else format((b - a) / scale, f"+{form}")
    return Figure(name, a, b, shown[0], shown[1], difference)


def _words(name: str, a: str | None, b: str | None) -> Figure:
    return Figure(name, a, b, a or ABSENT, b or ABSENT, "" if a == b else "differs")


def _cost(a: ReportData, b: ReportData) -> Iterator[Figure]:
    yield _figure("alpha", (a.alpha, b.alpha), ".3g")
    yield _words("rules", a.rules, b.rules)
    yield _words("kernels", a.kernels, b.kernels)
    ours, theirs = a.totals, b.totals
    ratios = [each.macs_after / each.macs_before if each.macs_before else None for each in (ours, theirs)]
    yield _figure("GMACs", (ours.macs_after, theirs.macs_after), ".3f", 1e9)
    yield _figure("MACs, share of the original's", ratios, ".3f")
    yield _figure("parameters, million", (ours.parameters_after, theirs.parameters_after), ".3f", 1e6)
    bytes_of = (ours.activation_bytes_after, theirs.activation_bytes_after)
    yield _figure("activations, MiB", bytes_of, ".3f", 2**20)
    yield _figure("convolutions in octave form", (ours.converted, theirs.converted), ".0f")
    yield _figure("split layers", (ours.splits, theirs.splits), ".0f")
    yield _figure("merge layers", (ours.merges, theirs.merges), ".0f")


def _accuracy(a: ReportData, b: ReportData) -> Iterator[Figure]:
    ours, theirs = a.calibration, b.calibration
    if ours is not None or theirs is not None:
        yield _words("calibration", *(None if c is None else c.effort for c in (ours, theirs)))
        errors = [None if c is None else c.before.relative_error for c in (ours, theirs)]
        yield _figure("relative output error, uncalibrated", errors, ".4f")
        errors = [None if c is None else c.after.relative_error for c in (ours, theirs)]
        yield _figure("relative output error, calibrated", errors, ".4f")
        same = [None if c is None else c.after.agreement for c in (ours, theirs)]
        yield _figure("same answer as the original, calibrated", same, ".1%")
    last = [report.tuning[-1] if report.tuning else None for report in (a, b)]
    if any(last):
        steps = [None if row is None else float(row.steps) for row in last]
        yield _figure("training steps of the last run", steps, ".0f")
        errors = [None if row is None else row.after.relative_error for row in last]
        yield _figure("relative output error, trained", errors, ".4f")
        right = [None if row is None else row.accuracy_after for row in last]
        yield _figure("accuracy on labels, trained", right, ".1%")
    yield from _metrics(_metric(a), _metric(b))


def _metric(report: ReportData) -> MetricRow | None:
    """The metric of the model as it is now: after the last training, where there was one."""
    return report.tuning[-1].metric_after if report.tuning else report.metric


def _metrics(a: MetricRow | None, b: MetricRow | None) -> Iterator[Figure]:
    sides = [{} if row is None else {value.name: value for value in row.values} for row in (a, b)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        values = [side.get(name) for side in sides]
        for what, pair in (
            (name, [None if value is None else value.result for value in values]),
            (f"{name}, drop", [None if value is None else value.drop for value in values]),
        ):
            shown = [ABSENT if each is None else number(each) for each in pair]
            a_value, b_value = pair
            difference = ABSENT
            if a_value is not None and b_value is not None:
                difference = number(b_value - a_value)
            yield Figure(what, a_value, b_value, shown[0], shown[1], difference)


def _latency(a: Side, b: Side) -> tuple[list[Figure], list[str]]:
    """Times and speed-ups of both results, by runtime, batch and threads; remarks on what differs."""
    ours, theirs = _timed(a.latency), _timed(b.latency)
    figures = []
    for key in dict.fromkeys([*ours, *theirs]):
        runtime, batch, threads = key
        rows = [side.get(key) for side in (ours, theirs)]
        where = f"{runtime}, batch {batch}, {threads} thread{'s' if threads != 1 else ''}"
        medians = [None if row is None else row.timing.median for row in rows]
        figures.append(_figure(f"ms per call, {where}", medians, ".2f"))
        speedups = [None if row is None else row.timing.speedup for row in rows]
        figures.append(_figure(f"speed-up over the original, {where}", speedups, ".2f"))
    machines = {side.latency.machine for side in (a, b) if side.latency is not None}
    remark = f"the latencies were measured on different machines: {'; '.join(sorted(machines))}"
    return figures, [remark] if len(machines) > 1 else []


def _timed(latency: LatencyRows | None) -> dict[tuple[str, int, int], LatencyRow]:
    """Rows of the last model of a bench, which is the result; the first is what it is compared with."""
    rows = () if latency is None else latency.rows
    if len({row.model for row in rows}) < 2:
        return {}
    return {(row.runtime, row.batch, row.threads): row for row in rows if row.model == rows[-1].model}


def _layers(a: ReportData, b: ReportData) -> Iterator[LayerPair]:
    ours, theirs = ({row.path: row for row in report.layers} for report in (a, b))
    errors = [_errors(report) for report in (a, b)]
    for path in dict.fromkeys([*ours, *theirs]):
        left, right = ours.get(path), theirs.get(path)
        some = left or right
        assert some is not None
        yield LayerPair(
            path,
            some.kind,
            some.macs_before,
            _alphas(left),
            _alphas(right),
            None if left is None else left.macs_after,
            None if right is None else right.macs_after,
            errors[0].get(path),
            errors[1].get(path),
        )


def _alphas(row: LayerRow | None) -> tuple[float, float] | None:
    return None if row is None else (row.alpha_in, row.alpha_out)


def _errors(report: ReportData) -> dict[str, float]:
    errors: dict[str, float] = {}
    for each in report.calibration.layers if report.calibration else ():
        errors[each.path] = max(each.after, errors.get(each.path, 0.0))
    return errors


def _remarks(a: Side, b: Side) -> Iterator[str]:
    """Sentences on why figures may not be comparable."""
    ours, theirs = a.report, b.report
    if ours.model != theirs.model:
        yield f"these are conversions of different models: {ours.model} and {theirs.model}"
    elif {row.path: row.macs_before for row in ours.layers} != {
        row.path: row.macs_before for row in theirs.layers
    }:
        yield "the originals differ in their layers, or in their input sizes"
    measured = [report.calibration.measured_on for report in (ours, theirs) if report.calibration]
    if len(set(measured)) > 1:
        yield f"errors were measured on different numbers of inputs: {measured[0]} and {measured[1]}"
    functions = [(row.function, row.lower) for row in (_metric(ours), _metric(theirs)) if row is not None]
    if len(set(functions)) > 1:
        yield f"the metrics are different functions: {functions[0][0]} and {functions[1][0]}"


def render_comparison(row: Comparison) -> Iterator[RenderableType]:
    """Render totals, accuracy and latency, then the layers that differ."""
    for title, figures in (("cost", row.cost), ("accuracy", row.accuracy), ("latency", row.latency)):
        if figures:
            table = _table(title, ("", *row.names, "difference"))
            for each in figures:
                table.add_row(each.name, each.shown_a, each.shown_b, each.difference)
            yield table
    differing = [pair for pair in row.layers if pair.differs]
    a, b = row.names
    title = f"layers that differ: {len(differing)} of {len(row.layers)} (A: {a}, B: {b})"
    heads = [f"{head}, {side}" for head in ("alpha in > out", "MMACs", "error") for side in "AB"]
    layers = _table(title, ("layer", "kind", *heads))
    for pair in differing:
        layers.add_row(
            pair.path,
            pair.kind,
            alphas(pair.alpha_a),
            alphas(pair.alpha_b),
            *(ABSENT if macs is None else f"{macs / 1e6:.2f}" for macs in (pair.macs_a, pair.macs_b)),
            *(ABSENT if error is None else f"{error:.3f}" for error in (pair.error_a, pair.error_b)),
        )
    yield layers
    yield from (Text(f"note: {remark}") for remark in row.remarks)


def alphas(pair: tuple[float, float] | None) -> str:
    """Shares of low channels in and out of a layer."""
    if pair is None:
        return ABSENT
    return " > ".join(f"{share:.3g}" if share else "dense" for share in pair)


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place > 0 and head != "kind" else "left", overflow="fold")
    return table


@dataclass(frozen=True)
class PointPair:
    """The points of two sweeps under one rule set at one alpha; None where a sweep has none."""

    rules: str
    alpha: float
    a: Point | None
    b: Point | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        sides = {name: point and point.to_dict() for name, point in (("a", self.a), ("b", self.b))}
        return {"rules": self.rules, "alpha": self.alpha} | sides


def pair_points(a: Sequence[Point], b: Sequence[Point]) -> tuple[PointPair, ...]:
    """Pair the points of two sweeps by rules and alpha, in the order of the first."""
    ours, theirs = ({(p.rules, p.alpha): p for p in points} for points in (a, b))
    keys = dict.fromkeys([*ours, *theirs])
    return tuple(PointPair(*key, ours.get(key), theirs.get(key)) for key in keys)


def figures_of(point: Point | None) -> tuple[str, ...]:
    """MACs ratio, error, drop of the metric, and milliseconds of a point, as text."""
    if point is None:
        return (ABSENT,) * len(POINT_HEADS)
    values = ((point.macs_ratio, ".3f"), (point.error, ".4f"), (point.agreement, ".1%"))
    cells = [ABSENT if value is None else format(value, form) for value, form in values]
    cells.append(ABSENT if point.metric is None else number(point.metric.drop))
    return (*cells, ABSENT if point.milliseconds is None else f"{point.milliseconds:.2f}")


POINT_HEADS = ("MACs ratio", "error", "same answer", "drop", "ms")


def render_pairs(names: tuple[str, str], pairs: Sequence[PointPair]) -> Table:
    """Render one row for each rule set and alpha, the figures of both sweeps beside each other."""
    heads = [f"{head}, {name}" for head in POINT_HEADS for name in names]
    table = _table(f"sweeps: {names[0]} and {names[1]}", ("rules", "alpha", *heads))
    for pair in pairs:
        ours, theirs = figures_of(pair.a), figures_of(pair.b)
        both = (cell for two in zip(ours, theirs, strict=True) for cell in two)
        table.add_row(pair.rules, f"{pair.alpha:g}", *both)
    return table
