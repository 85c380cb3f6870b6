"""Plot of a sweep: cost, error and speed against alpha (Chen et al. 2019, figure 4, for any model)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octify.errors import OctifyError
from octify.files import staged_file
from octify.report.rows import Point
from octify.report.sweep import metric_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
_STYLES: tuple[dict[str, Any], ...] = (
    {"linestyle": "-", "marker": "o"},
    {"linestyle": "--", "marker": "s"},
    {"linestyle": ":", "marker": "D"},
    {"linestyle": "-.", "marker": "^"},
)


def check_plot(path: Path) -> None:
    """Check, before any long work, that a plot can be written to the file."""
    if path.suffix.lower() not in FORMATS:
        raise OctifyError(
            f"{path} is not a plot's name",
            why=f"plots are {', '.join(FORMATS)} files",
            hint="--plot sweep.svg",
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OctifyError("plots need matplotlib", hint="pip install 'octify[plot]'") from error


def plot(points: Sequence[Point], model: str, path: Path) -> None:
    """Draw ``points`` (of one or several rule sets) into ``path``; a point at alpha 0 is the original.

    Left: MACs, activation memory and latency as shares of the original's. Beside it, where they were
    calibrated, the relative output error against the share of MACs, and where it was measured, the drop of
    the metric.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    calibrated = any(point.error is not None for point in points)
    judged = any(point.metric is not None for point in points)
    count = 1 + calibrated + judged
    figure = Figure(figsize=(6 if count == 1 else 5 * count, 4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    rules = list(dict.fromkeys(point.rules for point in points))
    for style, name in zip(itertools.cycle(_STYLES), rules, strict=False):
        own = sorted((point for point in points if point.rules == name), key=lambda point: point.alpha)
        _costs(axes[0], own, name if len(rules) > 1 else "", style)
        if calibrated:
            _errors(axes[1], own, name, style)
        if judged:
            _drops(axes[-1], own, name, style)
    _finish(axes[0], f"{model}: cost against alpha", "alpha", "share of the original")
    if calibrated:
        _finish(axes[1], "error against cost", "MACs, share of the original", "relative output error")
    if judged:
        _finish(axes[-1], "metric against cost", "MACs, share of the original", "drop", from_zero=False)
    with staged_file(path) as staged:
        figure.savefig(staged, dpi=150)


def _costs(axes: Axes, points: Sequence[Point], rules: str, style: dict[str, Any]) -> None:
    alphas = [0.0, *(point.alpha for point in points)]
    for label, colour, values in (
        ("MACs", "tab:blue", [point.macs_ratio for point in points]),
        ("activation memory", "tab:green", [point.activation_ratio for point in points]),
        ("latency", "tab:red", [1 / point.speedup if point.speedup else None for point in points]),
    ):
        if None not in values:
            axes.plot(alphas, [1.0, *values], color=colour, label=f"{label} {rules}".strip(), **style)


def _errors(axes: Axes, points: Sequence[Point], rules: str, style: dict[str, Any]) -> None:
    for label, colour, values in (
        ("uncalibrated", "tab:gray", [point.error_uncalibrated for point in points]),
        ("calibrated", "tab:purple", [point.error for point in points]),
    ):
        shown = [(point.macs_ratio, value) for point, value in zip(points, values, strict=True)]
        measured = [(ratio, value) for ratio, value in shown if value is not None]
        if measured:
            axes.plot(*zip(*measured, strict=True), color=colour, label=f"{label} ({rules})", **style)


def _drops(axes: Axes, points: Sequence[Point], rules: str, style: dict[str, Any]) -> None:
    """Draw the drop of every value of the metric; the original is at 1, without a drop."""
    for place, name in enumerate(metric_names(points)):
        drops = [
            (point.macs_ratio, value.drop)
            for point in points
            if point.metric is not None
            for value in point.metric.values
            if value.name == name
        ]
        colour = f"C{place}"
        axes.plot(*zip((1.0, 0.0), *drops, strict=True), color=colour, label=f"{name} ({rules})", **style)


def _finish(axes: Axes, title: str, x: str, y: str, *, from_zero: bool = True) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
