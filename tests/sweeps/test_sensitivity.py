"""``octify.sensitivity``: every coupled set alone, the worst first, and rules that leave those out."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from octify.planning.ruleset import Match, Rule, RuleSet, Settings, load_rules
from octify.planning.written import rules_text
from octify.report.sensitivity import Sensitivity, SensitivityPoint, SetSensitivity


class Blurred(nn.Module):
    """Convolutions one after another: every value between two of them is a coupled set."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.smooth = nn.Conv2d(16, 16, 3, padding=1)
        self.rough = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.smooth(self.stem(x).relu()).relu()
        x = self.rough(x).relu()
        return self.fc(self.last(x).relu().mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Blurred().eval()


@pytest.fixture(scope="module")
def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 3, 16, 16, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def result(data: list[Tensor]) -> Any:
    return octify.sensitivity(
        *(net(), data[0][:1], data, (0.5, 0.25), "everywhere"),
        metric=lambda model: model(data[0]).std().item(),
    )


def test_points_are_conversions_of_one_set(result: Any, data: list[Tensor], tmp_path: Path) -> None:
    rows, path = result.rows, tmp_path / "alone.toml"
    assert {name for row in rows.sets for name in row.written_by} >= {"smooth", "rough", "stem"}
    for row in rows.sets:
        assert [point.alpha for point in row.points] == [0.25, 0.5]
        others = [name for other in rows.sets if other is not row for name in other.written_by]
        dense = [Rule(match=Match(path=name), output="dense", alpha=None) for name in others]
        path.write_text(rules_text("alone", "", dense, load_rules("everywhere")), encoding="utf-8")
        for point in row.points:
            totals = octify.convert(net(), data[0][:1], point.alpha, path).report.totals
            assert point.share == point.alpha
            assert point.macs_saved == pytest.approx(1 - totals.macs_after / totals.macs_before, abs=1e-9)
            assert math.isfinite(point.error) and point.error > 0
            assert point.drop is not None and point.milliseconds_saved is None


def test_the_worst_come_first_and_the_rules_leave_them_out(
    result: Any, data: list[Tensor], tmp_path: Path
) -> None:
    rows = result.rows
    prices = [row.middle.price for row in rows.sets]
    assert prices == sorted(prices, reverse=True)
    path = tmp_path / "mine.toml"
    for share in (0.1, 0.5, 1.0):
        worst = rows.worst(share)
        assert len(worst) == math.ceil(share * len(rows.sets))
        path.write_text(result.rules(share), encoding="utf-8")
        plan = octify.convert(net(), data[0][:1], 0.5, path).plan
        dense = {name for row in worst for name in row.written_by}
        for row in rows.sets:
            for name in row.written_by:
                assert bool(plan.conv(name).low_out) == (name not in dense), name


def test_json_csv_and_page(result: Any) -> None:
    from octify.report.html.sensitivity import sensitivity_page

    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    points = [(row, point) for row in result.rows.sets for point in row.points]
    assert len(rows) == len(points)
    for line, (row, point) in zip(rows, points, strict=True):
        assert line["written_by"].split(" ") == list(row.written_by)
        assert float(line["error"]) == point.error and float(line["macs_saved"]) == point.macs_saved
        assert line["milliseconds_saved"] == ""
    document = result.to_dict()
    assert [entry["written_by"] for entry in document["sets"]] == [row.written_by for row in result.rows.sets]
    page = sensitivity_page(result.rows, "net.py", result.rules())
    for row in result.rows.sets:
        assert row.name in page and row.name in str(result)
    assert "[[rule]]" in page and 'id="sensitivity-table"' in page


def test_what_the_rules_fix_is_not_counted(data: list[Tensor], tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('name = "half"\n[[rule]]\nmatch = { path = "smooth" }\nalpha = 0.5\n')
    rows = octify.sensitivity(net(), data[0][:1], data, (0.5,), path).rows
    assert "smooth" not in {name for row in rows.sets for name in row.written_by}
    assert all(point.error >= 0 and point.macs_saved > 0 for row in rows.sets for point in row.points)


def test_milliseconds_are_those_of_the_table(data: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    from octify.latency.operators.table import OperatorTable

    def count(self: OperatorTable, op: Any) -> float:
        size = math.prod(op.size) * op.channels_in * op.channels_out
        return 1e-6 * size if op.kind == "conv" else 0.0

    monkeypatch.setattr(OperatorTable, "__getitem__", count)
    rows = octify.sensitivity(net(), data[0][:1], data, (0.5,), "everywhere", latency=2).rows
    assert rows.threads == 2 and rows.milliseconds
    for row in rows.sets:
        (point,) = row.points
        # Time in proportion to the MACs of the convolutions, all of them 3x3: so are the savings.
        assert point.milliseconds_saved is not None
        assert point.milliseconds_saved / rows.milliseconds == pytest.approx(point.macs_saved, rel=0.2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"alphas": (0.0,)}, "above 0"),
        ({"alphas": ()}, "above 0"),
        ({"alphas": (2.0,)}, "between 0 and 1"),
        ({"calibration": [torch.zeros(4, 3, 16, 16)]}, "too few"),
        ({"exclude": ("gone",)}, "matches no convolution"),
        ({"rules": "none"}, "no rules named none"),
    ],
)
def test_wrong_arguments(data: list[Tensor], options: dict[str, Any], told: str) -> None:
    with pytest.raises(OctifyError, match=told):
        octify.sensitivity(net(), data[0][:1], **({"calibration": data} | options))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, math.nan])
def test_a_share_of_the_worst_is_a_share(result: Any, share: float) -> None:
    with pytest.raises(OctifyError, match="share of worst sets"):
        result.rules(share)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(-0.1, 0.5)), min_size=1, max_size=6))
def test_a_set_that_saves_nothing_is_the_most_expensive(drawn: list[tuple[float, float]]) -> None:
    for error, saved in drawn:
        point = SensitivityPoint(0.5, 0.5, saved, error)
        assert (point.price == math.inf) == (saved <= 0)
        row = Sensitivity("m", "r", "paper", 1, 1, None, None, None, (SetSensitivity(("a",), 4, (point,)),))
        assert row.to_dict()["sets"][0]["error_per_percent"] == (None if saved <= 0 else point.price)
        assert str(row)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
MATCHES = st.builds(
    Match,
    path=st.none() | TEXT,
    op=st.sampled_from([None, "dense", "grouped", "depthwise"]),
    kernel=st.sampled_from([None, 3, ">=3", "<7"]),
    stem=st.sampled_from([None, True, False]),
)
RULES = st.builds(
    Rule,
    match=MATCHES,
    output=st.sampled_from(["octave", "dense"]),
    alpha=st.none() | st.floats(0, 1),
    leave=st.booleans(),
    kernels=st.sampled_from([None, "paper", "exact"]),
    exchange=st.sampled_from([None, "full", "spatial"]),
    reason=st.none() | TEXT,
)
SETTINGS = st.builds(
    Settings,
    round_to=st.integers(1, 64),
    uneven_groups=st.booleans(),
    boundary_macs_per_element=st.floats(0, 1e9),
    exchange=st.sampled_from(["full", "spatial"]),
)


@given(TEXT, TEXT, st.lists(RULES, max_size=3), st.lists(RULES, max_size=3), SETTINGS)
def test_written_rules_read_back(
    tmp_path_factory: Any, name: str, description: str, first: Any, own: Any, settings: Settings
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.toml"
    base = RuleSet("base", "", settings, tuple(own), path)
    path.write_bytes(rules_text(name, description, first, base).encode())
    read = load_rules(path)
    assert (read.name, read.description, read.settings) == (name, description, settings)
    assert read.rules == (*first, *own)


@pytest.mark.parametrize("name", ["default", "fast", "paper", "everywhere"])
def test_built_in_rules_read_back(tmp_path: Path, name: str) -> None:
    base = load_rules(name)
    path = tmp_path / "written.toml"
    path.write_text(rules_text("mine", "", (), base), encoding="utf-8")
    assert load_rules(path).rules == base.rules and load_rules(path).settings == base.settings
