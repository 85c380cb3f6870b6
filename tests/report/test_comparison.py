"""Two results side by side: every figure is that of a side, and differences are theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import octify
from octify.latency.rows import CallTimes, LatencyRow, LatencyRows
from octify.report.comparison import Side, compare, pair_points, render_comparison, render_pairs
from octify.report.html.comparison import comparison_page, sweeps_page
from tests.nets import Residual


def report_at(alpha: float, width: int = 16) -> octify.Report:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)

    def spread(model: nn.Module) -> float:
        return model(x).std().item()

    return octify.convert(Residual(width).eval(), x, alpha, "everywhere", metric=spread).report


def timed(name: str, medians: tuple[float, float], machine: str = "a processor") -> LatencyRows:
    rows = [
        LatencyRow(model, "eager", 1, 1, CallTimes(ms, ms, ms, medians[0] / ms, 3))
        for model, ms in zip(("original", name), medians, strict=True)
    ]
    return LatencyRows(tuple(rows), machine)


@pytest.fixture(scope="module")
def sides() -> tuple[Side, Side]:
    return (
        Side("out", report_at(0.25), timed("out", (4.0, 3.0))),
        Side("other", report_at(0.5), timed("other", (4.4, 2.2))),
    )


def test_figures_are_those_of_the_sides(sides: tuple[Side, Side]) -> None:
    row = compare(*sides)
    figures = {each.name: each for each in (*row.cost, *row.accuracy, *row.latency)}
    totals = [side.report.totals for side in sides]
    gmacs = figures["GMACs"]
    assert (gmacs.a, gmacs.b) == tuple(each.macs_after for each in totals)
    assert gmacs.difference == f"{(totals[1].macs_after - totals[0].macs_after) / 1e9:+.3f}"
    assert (figures["alpha"].a, figures["alpha"].b) == (0.25, 0.5)
    assert figures["rules"].difference == ""
    metrics = [side.report.metric for side in sides]
    assert all(metrics)
    assert [figures["spread"].a, figures["spread"].b] == [m.values[0].result for m in metrics if m]
    assert [figures["spread, drop"].a, figures["spread, drop"].b] == [m.drop for m in metrics if m]
    where = "eager, batch 1, 1 thread"
    assert (figures[f"ms per call, {where}"].a, figures[f"ms per call, {where}"].b) == (3.0, 2.2)
    assert figures[f"speed-up over the original, {where}"].shown_b == "2.00"
    assert not row.remarks


def test_layers_are_those_of_both(sides: tuple[Side, Side]) -> None:
    row = compare(*sides)
    a, b = ({layer.path: layer for layer in side.report.layers} for side in sides)
    assert [pair.path for pair in row.layers] == list(a)
    for pair in row.layers:
        assert pair.alpha_a == (a[pair.path].alpha_in, a[pair.path].alpha_out)
        assert pair.macs_b == b[pair.path].macs_after
        assert pair.differs == (pair.macs_a != pair.macs_b or pair.alpha_a != pair.alpha_b)
    assert any(pair.differs for pair in row.layers)
    assert sum(pair.macs_a or 0 for pair in row.layers) == sides[0].report.totals.macs_after


def test_a_result_does_not_differ_from_itself(sides: tuple[Side, Side]) -> None:
    row = compare(sides[0], replace(sides[0], name="again"))
    assert not any(pair.differs for pair in row.layers)
    for each in (*row.cost, *row.accuracy, *row.latency):
        assert each.a == each.b and each.shown_a == each.shown_b
        assert each.difference == "" or float(each.difference.rstrip("%")) == 0


def test_terminal_and_page_show_them(sides: tuple[Side, Side]) -> None:
    from rich.console import Console

    row = compare(*sides)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(*render_comparison(row))
    text, page = console.export_text(), comparison_page(row)
    console.file.close()
    for each in (*row.cost, *row.accuracy, *row.latency):
        assert each.name in text
        assert each.shown_a in page and each.shown_b in page
    assert all(pair.path in page for pair in row.layers)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda side: replace(side, report=replace(side.report, model="Other")), "different models"),
        (lambda side: replace(side, report=report_at(0.5, 32)), "originals differ"),
        (lambda side: replace(side, latency=timed("other", (2.0, 1.0), "another")), "different machines"),
    ],
)
def test_what_cannot_be_compared_is_said(sides: tuple[Side, Side], change: object, told: str) -> None:
    row = compare(sides[0], change(sides[1]))  # type: ignore[operator]
    assert any(told in remark for remark in row.remarks)
    assert "Before you compare" in comparison_page(row)


def test_sides_without_figures(sides: tuple[Side, Side]) -> None:
    bare = Side("bare", replace(sides[0].report, metric=None))
    row = compare(bare, sides[1])
    spread = next(each for each in row.accuracy if each.name == "spread")
    assert spread.a is None and spread.shown_a == spread.difference == "-"
    assert compare(bare, bare).accuracy == compare(bare, bare).latency == ()
    assert "Not measured" in comparison_page(compare(bare, bare))


def test_sweeps_are_paired_by_rules_and_alpha() -> None:
    torch.manual_seed(0)
    model, x = Residual(16).eval(), torch.randn(2, 3, 16, 16)
    first = octify.sweep(model, x, (0.25, 0.5), ("everywhere",), metric=lambda m: m(x).std().item())
    second = octify.sweep(model, x, (0.5, 0.75), ("everywhere",))
    pairs = pair_points(first.points, second.points)
    assert [pair.alpha for pair in pairs] == [0.25, 0.5, 0.75]
    assert [(pair.a is None, pair.b is None) for pair in pairs] == [
        (False, True),
        (False, False),
        (True, False),
    ]
    assert render_pairs(("a", "b"), pairs).row_count == 3
    page = sweeps_page(("a", "b"), pairs, {"points": [pair.to_dict() for pair in pairs]})
    assert "Drop of the metric against MACs" in page and "Not measured in either sweep" in page
