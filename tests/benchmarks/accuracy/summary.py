"""Rows added up: a table of rows, means over networks, and what calibration must show (issue's figures)."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.benchmarks.accuracy.measure import Row
from tests.benchmarks.accuracy.methods import METHODS

# Points of accuracy that a method may lose, for each network, by alpha.
ALLOWED: dict[str, dict[float, float]] = {
    "standard": {0.25: 1.3, 0.5: 2.9, 0.75: 10.5},
    "thorough": {0.25: 1.0, 0.5: 1.5, 0.75: 6.0},
    "synthetic": {0.25: 2.5, 0.5: 8.0},
}
ANOTHER_DRAW = 1.5  # points between two draws of images
FEW_IMAGES = 1.5  # points that 64 images may cost

COLUMNS = (
    "net",
    "task",
    "alpha",
    "method",
    "images",
    "seed",
    "accuracy %",
    "drop",
    "agreement %",
    "relative error",
    "MACs",
    "s",
    "torch",
)
Rows = Sequence[Row]


def cells(row: Row) -> tuple[str, ...]:
    """A row as text; after +- stands one standard error."""
    return (
        row.net,
        row.task,
        f"{row.alpha:g}",
        row.method,
        str(row.images),
        str(row.seed),
        f"{100 * row.accuracy:.1f}+-{100 * row.accuracy_error:.1f}",
        f"{100 * row.drop:.1f}+-{100 * row.drop_error:.1f}",
        f"{100 * row.agreement:.1f}+-{100 * row.agreement_error:.1f}",
        f"{row.relative_error:.3f}",
        f"{row.macs_ratio:.3f}",
        f"{row.seconds:.0f}",
        row.torch,
    )


@dataclass(frozen=True)
class Mean:
    """Over all networks and tasks measured with a method at an alpha, seeds averaged first; drops in points.

    ``error`` is the standard error of ``drop`` from the finite test set (networks are taken as given).
    """

    method: str
    alpha: float
    networks: int
    drop: float
    error: float
    worst: float
    worst_of: str
    agreement: float
    relative_error: float
    macs_ratio: float
    seconds: float


def means(rows: Rows, images: int) -> list[Mean]:
    """One for each method and alpha, at ``images`` calibration images."""
    found: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        if row.images == images:
            found[row.method, row.alpha].append(row)
    order = list(METHODS)
    return [
        _mean(method, alpha, members)
        for (method, alpha), members in sorted(
            found.items(), key=lambda item: (item[0][1], order.index(item[0][0]))
        )
    ]


def _mean(method: str, alpha: float, rows: Rows) -> Mean:
    drops = by_network(rows)
    worst = max(drops, key=lambda name: drops[name])
    errors = {f"{row.net}-{row.task}": row.drop_error for row in rows}
    return Mean(
        method,
        alpha,
        len(drops),
        statistics.fmean(drops.values()),
        100 * math.sqrt(sum(error**2 for error in errors.values())) / len(errors),
        drops[worst],
        worst,
        100 * statistics.fmean(row.agreement for row in rows),
        statistics.fmean(row.relative_error for row in rows),
        statistics.fmean(row.macs_ratio for row in rows),
        statistics.fmean(row.seconds for row in rows),
    )


def by_network(rows: Iterable[Row]) -> dict[str, float]:
    """Points lost by every network on its task, the mean over seeds."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[f"{row.net}-{row.task}"].append(100 * row.drop)
    return {name: statistics.fmean(values) for name, values in found.items()}


MEAN_COLUMNS = (
    "alpha",
    "method",
    "networks",
    "mean drop",
    "worst drop",
    "of",
    "agreement %",
    "relative error",
    "MACs",
    "s",
)


def mean_cells(mean: Mean) -> tuple[str, ...]:
    return (
        f"{mean.alpha:g}",
        mean.method,
        str(mean.networks),
        f"{mean.drop:.1f}+-{mean.error:.1f}",
        f"{mean.worst:.1f}",
        mean.worst_of,
        f"{mean.agreement:.1f}",
        f"{mean.relative_error:.3f}",
        f"{mean.macs_ratio:.3f}",
        f"{mean.seconds:.0f}",
    )


@dataclass(frozen=True)
class Demand:
    """Something the benchmark must show: in how many of the networks measured it holds, and where not."""

    text: str
    measured: int
    missed: tuple[str, ...]


def demands(rows: Rows, images: int) -> list[Demand]:
    """What issue 4 asks of calibration, judged by the means over seeds (draws: by each pair of seeds)."""
    many = [row for row in rows if row.images == images]
    found = []
    for method, limits in ALLOWED.items():
        for alpha, limit in limits.items():
            drops = by_network(row for row in many if (row.method, row.alpha) == (method, alpha))
            over = {name: drop for name, drop in drops.items() if drop > limit}
            found.append(
                _demand(f"{method} within {limit:g} points of the original at alpha {alpha:g}", drops, over)
            )
    return [*found, *_never_below_norm(many), *_another_draw(many), *_few_images(rows, images)]


def _demand(text: str, measured: dict[str, float], missed: dict[str, float]) -> Demand:
    worst = sorted(missed.items(), key=lambda item: -item[1])
    return Demand(text, len(measured), tuple(f"{name} {value:.1f}" for name, value in worst))


def _alphas(rows: Rows) -> list[float]:
    return sorted({row.alpha for row in rows})


def _never_below_norm(rows: Rows) -> list[Demand]:
    measured: dict[str, float] = {}
    for method in ("fast", "standard", "thorough"):
        for alpha in _alphas(rows):
            ours = by_network(r for r in rows if (r.method, r.alpha) == (method, alpha))
            norm = by_network(r for r in rows if (r.method, r.alpha) == ("norm", alpha))
            for name in ours.keys() & norm.keys():
                measured[f"{name} {method} at {alpha:g} by"] = ours[name] - norm[name]
    below = {name: value for name, value in measured.items() if value > 0}
    return [_demand("fast, standard, thorough never below BatchNorm re-estimation", measured, below)]


def _another_draw(rows: Rows) -> list[Demand]:
    draws: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.method == "standard":
            draws[f"{row.net}-{row.task} at {row.alpha:g}"].append(100 * row.drop)
    spread = {name: max(found) - min(found) for name, found in draws.items() if len(found) > 1}
    over = {name: value for name, value in spread.items() if value >= ANOTHER_DRAW}
    return [
        _demand(
            f"standard: another draw of images changes the result by less than {ANOTHER_DRAW:g} points",
            spread,
            over,
        )
    ]


def _few_images(rows: Rows, images: int) -> list[Demand]:
    found = []
    for few in sorted({row.images for row in rows if row.images < images}):
        cost: dict[str, float] = {}
        for alpha in _alphas(rows):
            both = [
                by_network(r for r in rows if (r.method, r.alpha, r.images) == ("standard", alpha, count))
                for count in (few, images)
            ]
            cost |= {
                f"{name} at {alpha:g}": both[0][name] - both[1][name]
                for name in both[0].keys() & both[1].keys()
            }
        over = {name: value for name, value in cost.items() if value > FEW_IMAGES}
        found.append(_demand(f"standard: {few} images cost at most {FEW_IMAGES:g} points more", cost, over))
    return found


DEMAND_COLUMNS = ("what must be shown", "holds in", "missed by (points)")


def demand_cells(demand: Demand) -> tuple[str, ...]:
    if not demand.measured:
        return (demand.text, "not measured", "")
    return (
        demand.text,
        f"{demand.measured - len(demand.missed)} of {demand.measured}",
        ", ".join(demand.missed),
    )
