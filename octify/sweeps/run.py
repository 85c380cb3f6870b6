"""One model under several rule sets at several alphas.

``sweep`` is the library's function; the command adds the sources of models and data. A point that an earlier
run left in its folder under the same key is not converted again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from octify.artefact.files import POINT
from octify.checks.documents import parse_json, read_text
from octify.files import staged_directory, write_text
from octify.progress import Tell
from octify.report import Report
from octify.report.rows import Point, point_name
from octify.storage.digests import digest_of_state
from octify.sweeps.content import items_digest, metric_content, rules_content, rules_digest

if TYPE_CHECKING:
    from torch import nn

    from octify.conversion import Inputs, Result


@dataclass(frozen=True)
class PointMaker:
    """Maker of a sweep's points.

    convert:
        Function that converts under rules at an alpha; its third argument receives every phase.
    folder:
        Folder that gets one folder for each point; None writes nothing.
    key:
        Function that returns a digest of everything the point under rules at an alpha depends on.
    also_write:
        Callback that adds files; it receives a point's staging folder and its final folder.
    """

    convert: Callable[[str, float, Tell], Result]
    folder: Path | None = None
    key: Callable[[str, float], str] = lambda rules, alpha: ""
    also_write: Callable[[Path, Path], None] = lambda staged, final: None


@dataclass(frozen=True)
class SweepResult:
    """Points of a sweep, by rule set and then alpha, and their models unless they are in ``folder``."""

    points: tuple[Point, ...]
    models: tuple[nn.Module, ...] = ()
    folder: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"points": [point.to_dict() for point in self.points]}

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from octify.report.sweep import render_sweep

        yield render_sweep(self.points, "model")


def place_of(rules: str, alpha: float) -> str:
    """Name of a point's folder."""
    return point_name(rules, rules_digest(rules), alpha)


def convert_point(maker: PointMaker, rules: str, alpha: float, progress: Tell) -> tuple[Point, Result | None]:
    """Convert at one point and write it, or read what an earlier run wrote (without its model)."""
    name = place_of(rules, alpha)
    place = None if maker.folder is None else maker.folder / name
    key = "" if place is None else maker.key(rules, alpha)
    earlier = None if place is None else finished(place, key)
    if earlier is not None:
        progress(f"{name} is done already")
        return replace(earlier, rules=rules), None
    result = maker.convert(rules, alpha, lambda phase: progress(f"{name}: {phase}"))
    point = point_of(result.report, rules, rules_digest(rules))
    if place is not None:
        with staged_directory(place) as staged:
            result.save(staged)
            maker.also_write(staged, place)
            # Written with the rest: an older file beside newer weights would be taken for theirs.
            write_point(staged, key, point)
    return point, result


def sweep(
    model: nn.Module,
    example_inputs: Inputs,
    alphas: Sequence[float] = (0.125, 0.25, 0.5, 0.75),
    rules: Sequence[str] = ("default",),
    *,
    calibration: Iterable[Any] | str | None = None,
    directory: str | Path | None = None,
    progress: Tell | None = None,
    metric: Callable[[nn.Module], Any] | None = None,
    metric_lower: bool = False,
    **options: Any,
) -> SweepResult:
    """Convert ``model`` under every rule set at every alpha.

    Parameters
    ----------
    model, example_inputs:
        See ``octify.convert``.
    alphas, rules:
        Every pair of them is a point.
    calibration:
        See ``octify.convert``. An iterator is read once and kept for all points.
    directory:
        A folder that gets one converted folder for each point (``RULES-ALPHA``). None keeps the models in
        memory, as ``SweepResult.models``.
    progress:
        Callback that receives the name of every phase as it begins.
    metric, metric_lower:
        See ``octify.convert``. The original is measured once for all points.
    options:
        Further arguments of ``octify.convert``, such as ``kernels``, ``effort`` or ``exclude``.

    Raises
    ------
    OctifyError
        As ``octify.convert`` does.
    """
    from octify.conversion import convert
    from octify.metric.measure import baseline_of

    tell = progress or (lambda phase: None)
    if metric is not None:
        tell("measuring the metric of the original")
    baseline = None if metric is None else baseline_of(metric, model, lower=metric_lower)
    data = calibration if calibration is None or isinstance(calibration, str) else list(calibration)

    def converted(name: str, alpha: float, report: Tell) -> Result:
        return convert(
            model,
            example_inputs,
            alpha=alpha,
            rules=name,
            calibration=data,
            progress=report,
            metric=baseline,
            **options,
        )

    def key(name: str, alpha: float) -> str:
        request = {
            "rules": rules_content(name),
            "alpha": repr(alpha),
            "data": items_digest(data),
            "options": repr(sorted(options.items())),
            "model": repr(model),
            **metric_content(baseline),
        }
        return fingerprint(request, model.state_dict())

    maker = PointMaker(converted, None if directory is None else Path(directory), key)
    results = [convert_point(maker, name, alpha, tell) for name in rules for alpha in alphas]
    models = tuple(result.model for _, result in results if result is not None)
    points = tuple(point for point, _ in results)
    return SweepResult(points, models if directory is None else (), maker.folder)


def timed(
    model: nn.Module,
    example_inputs: Inputs,
    points: Sequence[Point],
    models: Mapping[str, nn.Module],
    *,
    threads: int = 1,
    progress: Tell = lambda phase: None,
) -> list[Point]:
    """Copy of ``points`` with latencies: ``model`` and all ``models`` (by point's name) timed in turn."""
    from octify.latency.bench import bench

    together = {"original": model, **models}
    result = bench(together, example_inputs, threads=threads, memory=False, progress=progress)
    rows = {row.model: row.timing for row in result.rows}
    return [
        replace(point, milliseconds=rows[point.name].median, speedup=rows[point.name].speedup)
        for point in points
    ]


def point_of(report: Report, rules: str, rules_digest: str = "") -> Point:
    """Build the point of a conversion under the rules named ``rules``."""
    totals, calibration = report.totals, report.calibration
    assert report.alpha is not None
    return Point(
        rules,
        report.alpha,
        totals.macs_after,
        totals.macs_after / totals.macs_before,
        totals.parameters_after / totals.parameters_before,
        totals.activation_bytes_after / totals.activation_bytes_before,
        totals.converted,
        totals.convolutions,
        totals.splits,
        totals.merges,
        calibration.before.relative_error if calibration else None,
        calibration.after.relative_error if calibration else None,
        calibration.after.agreement if calibration else None,
        rules_digest=rules_digest,
        metric=report.metric,
    )


def fingerprint(request: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Digest of everything that a point depends on: the request, and the original's weights."""
    return digest_of_state(dict(sorted(state.items())), json.dumps(request, sort_keys=True))


def finished(folder: Path, key: str) -> Point | None:
    """Read the point that an earlier run left in ``folder`` under the same key; None if there is none."""
    try:
        document = parse_json(read_text(folder / POINT))
        if document["key"] != key:
            return None
        return TypeAdapter(Point).validate_python(document["point"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_point(folder: Path, key: str, point: Point) -> None:
    """Mark the conversion in ``folder`` as complete."""
    write_text(folder / POINT, json.dumps({"key": key, "point": point.to_dict()}, indent=1) + "\n")
