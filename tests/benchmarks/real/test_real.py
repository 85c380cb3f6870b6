"""The measures, the peers' repair and the page; the networks themselves need packages that tests do not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.benchmarks.real import factors, measures, refit
from tests.benchmarks.real.detections import found, kept_regions, matched
from tests.benchmarks.real.networks import NETWORKS
from tests.benchmarks.real.page import page
from tests.benchmarks.real.rows import Row, store, stored

seeds = st.integers(0, 2**31 - 1)


@given(seed=seeds, count=st.integers(2, 40))
def test_a_network_agrees_with_itself(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 8 * torch.randn(count, 10, generator=generator)
    values = {name: f(logits, logits, range(count)) for name, f in measures.answers().items()}
    assert values["same top-1"].value == 1 and values["KL"].value == pytest.approx(0, abs=1e-9)
    assert values["relative error"].value == 0
    assert values["of the sure"].count == int((logits.softmax(1).amax(1) >= measures.SURE).sum())


@given(seed=seeds)
def test_standard_errors_are_by_photographs(seed: int) -> None:
    """Copies of values in a photograph tell nothing new; values of one photograph each, as usual."""
    values = torch.randn(30, generator=torch.Generator().manual_seed(seed)).double()
    alone = measures.mean(values, range(30))
    assert alone.error == pytest.approx(float(values.std()) / math.sqrt(30), rel=1e-9)
    copied = measures.mean(values.repeat_interleave(4), [i // 4 for i in range(120)])
    assert copied.value == pytest.approx(alone.value) and copied.error == pytest.approx(alone.error)


def test_decibels_are_of_a_peak_of_one() -> None:
    a = torch.rand(5, 3, 4, 4)
    assert measures.pictures()["PSNR"](a, a + 0.1, range(5)).value == pytest.approx(20, abs=1e-4)


def _output(boxes: list[tuple[float, float, float, float, int, float]]) -> torch.Tensor:
    """YOLO's output for boxes of centre, size, class and score."""
    made = torch.zeros(4 + 3, len(boxes))
    for i, (*box, kind, score) in enumerate(boxes):
        made[:4, i] = torch.tensor(box)
        made[4 + kind, i] = score
    return made


def test_boxes_are_suppressed_by_class_and_matched_once() -> None:
    boxes = found(
        _output(
            [(10, 10, 8, 8, 0, 0.9), (11, 10, 8, 8, 0, 0.8), (11, 10, 8, 8, 1, 0.7), (50, 50, 4, 4, 2, 0.1)]
        )
    )
    assert [(int(b[5]), round(float(b[4]), 1)) for b in boxes] == [(0, 0.9), (1, 0.7)]
    assert matched(boxes, boxes).all()
    assert matched(torch.cat([boxes, boxes]), boxes).sum() == 2
    moved = boxes.clone()
    moved[:, :4] += 6
    assert not matched(boxes, moved).any() and not matched(boxes, boxes[:0]).any()


def test_regions_are_kept_where_half_of_both_is_shared() -> None:
    pytest.importorskip("scipy")
    wanted, given_map = torch.zeros(40, 40), torch.zeros(40, 40)
    wanted[2:10, 2:20] = wanted[20:30, 5:35] = 1.0
    given_map[2:10, 4:20] = 1.0
    assert kept_regions(wanted, given_map).tolist() == [True, False]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1, groups=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()


def test_refitting_what_was_changed_brings_the_original_back() -> None:
    net, x = _net(), torch.randn(40, 3, 12, 12)
    other = _net()
    with torch.no_grad():
        for layer in other:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.weight.mul_(0.9)
        refit.refitted(net, other, {}, x)
        assert float((other(x) - net(x)).norm() / net(x).norm()) < 1e-2


def test_matched_norms_undo_what_statistics_can_undo() -> None:
    net, x = _net(), torch.randn(40, 3, 12, 12)
    other = _net()
    with torch.no_grad():
        other[0].weight.mul_(3)
        refit.matched(net, other, {}, x)
        torch.testing.assert_close(other(x), net(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_factors_have_the_wanted_macs_and_are_near_the_original(share: float) -> None:
    net, x = _net(), torch.nn.functional.avg_pool2d(torch.randn(40, 3, 14, 14), 3, 1)
    made, found_share = factors.factored(net, x, share)
    assert found_share <= share + 0.02
    assert any(isinstance(m, factors.Pair) for m in made.modules())
    with torch.no_grad():
        assert float((made(x) - net(x)).norm() / (net(x) - net(x).mean(0)).norm()) < 0.8


def test_rows_come_back_and_the_page_shows_them(tmp_path) -> None:  # type: ignore[no-untyped-def]
    value = {"value": 0.5, "error": 0.01, "count": 7}
    rows = [
        Row(name, 0.25, "fast", 256, 0, "test", 512, 0.7, 10, 1.5, dict.fromkeys(network.measures, value))
        for name, network in NETWORKS.items()
    ]
    rows.append(Row("lite0", 0.25, "pruned", 256, 0, "test", 512, failure="it cannot"))
    store(tmp_path / "rows.json", {row.key: row for row in rows})
    assert list(stored(tmp_path / "rows.json").values()) == rows
    text = page(rows)
    assert all(network.what in text for network in NETWORKS.values())
    assert "it cannot" in text and "50.0 ± 1.0" in text
