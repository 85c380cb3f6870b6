"""Downdated matrices equal those computed anew, and Gram matrices in panels equal the product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.calibrate.channels import readers
from octify.calibrate.channels.greedy import by_greedy
from octify.calibrate.channels.pivots import exchanged, swept
from octify.calibrate.channels.readers import Reader
from octify.calibrate.fit.gram import add_gram, gram, mirror
from octify.layout.channels import DENSE
from octify.passes.resolve import Planned
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace

EPS = 2.0**-52


def covariance(size: int, spread: float, seed: int) -> Tensor:
    """A random covariance matrix whose eigenvalues are ``spread`` apart at most."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    values = spread ** torch.rand(size, generator=generator, dtype=torch.float64)
    return (basis * values) @ basis.T


def refitted_error(cov: Tensor, active: list[int], outputs: list[int]) -> float:
    """What least squares on the features ``active`` leaves of the variance of ``outputs``."""
    cross = cov[active][:, outputs]
    return float(
        cov[outputs][:, outputs].trace() - (cross * torch.linalg.solve(cov[active][:, active], cross)).sum()
    )


@given(
    active=st.integers(2, 12),
    rest=st.integers(1, 8),
    spread=st.sampled_from([1.0, 1e3, 1e6]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_a_downdated_inverse_is_the_inverse_of_what_is_left(
    active: int, rest: int, spread: float, seed: int, data: st.DataObject
) -> None:
    cov = covariance(active + rest, spread, seed)
    gone = data.draw(st.lists(st.integers(0, active - 1), min_size=1, max_size=active - 1, unique=True))
    new = data.draw(st.lists(st.integers(active, active + rest - 1), min_size=1, max_size=rest, unique=True))
    left = [i for i in range(len(cov)) if i not in gone]
    found = exchanged(swept(cov.clone(), active), torch.tensor(gone), torch.tensor(new))
    # The same features swept at once: first those that are active, then the others.
    members = [i for i in left if i < active or i in new]
    others = [i for i in left if i not in members]
    order = members + others
    wanted = swept(cov[order][:, order], len(members))
    back = [order.index(i) for i in left]
    # Both lose what the condition numbers of what they invert cost, which are at most that of cov.
    scale = wanted.abs().max()
    assert (found - wanted[back][:, back]).abs().max() <= 100 * EPS * spread * len(cov) * scale


@given(
    channels=st.integers(2, 7),
    taps=st.sampled_from([1, 3]),
    dense=st.integers(0, 2),
    outputs=st.integers(1, 4),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_costs_are_what_refitting_anew_loses(
    channels: int, taps: int, dense: int, outputs: int, seed: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    classes = np.array([*range(channels), *[DENSE] * dense])
    half = len(classes) * taps
    rows = torch.randn(4 * half + 20, 2 * half + outputs, generator=generator, dtype=torch.float64)
    rows[:, half : 2 * half] += rows[:, :half]  # low taps are like the high ones
    size = rows.shape[1]
    total, mean = rows.new_zeros(size, size), rows.new_zeros(size)
    importance = torch.rand(outputs, generator=generator, dtype=torch.float64)
    reader = Reader(classes, taps, outputs, total, mean, importance)
    for part in rows.split(17):
        reader.add(part)
    mirror(reader.total)

    before = data.draw(st.sets(st.integers(0, channels - 1), max_size=channels - 1))
    low = np.zeros(channels, dtype=bool)
    low[list(before)] = True
    ids, sweep = reader.sweep(low, np.arange(channels))
    for _ in range(2):
        lost, regained = sweep.costs()
        assert (lost > 0).all()
        assert (regained >= 0).all()
        check_costs(rows, reader, low, ids, lost - regained, sweep.error())
        chosen = data.draw(st.sets(st.sampled_from(sorted(ids.tolist())), max_size=len(ids)))
        low[list(chosen)] = True
        sweep.lower(torch.from_numpy(low[ids]))
        ids = ids[~low[ids]]
        if not len(ids):
            break


def check_costs(
    rows: Tensor, reader: Reader, low: np.ndarray, ids: np.ndarray, costs: Tensor, error: float
) -> None:
    cov = torch.cov(rows.T, correction=0)
    half = len(reader.classes) * reader.taps
    cov.diagonal()[: 2 * half] += readers._RIDGE * cov.diagonal()[:half].mean()
    scale = torch.cat([cov.new_ones(2 * half), reader.importance.sqrt()])
    cov = cov * scale * scale[:, None]
    y = list(range(2 * half, len(cov)))

    def active(lows: np.ndarray) -> list[int]:
        """Where the features that are read are."""
        taps = range(reader.taps)
        is_low = [c != DENSE and bool(lows[c]) for c in reader.classes]
        return [n * reader.taps + t + half * is_low[n] for n in range(len(is_low)) for t in taps]

    # The condition number is below 1e3 (the ridge) times the features' spread, itself below 100.
    tolerance = 1e5 * 100 * EPS * float(cov.diagonal()[y].sum())
    now = refitted_error(cov, active(low), y)
    assert abs(error - now) <= tolerance
    for channel, cost in zip(ids, costs, strict=True):
        then = low.copy()
        then[channel] = True
        assert abs(float(cost) - (refitted_error(cov, active(then), y) - now)) <= tolerance


@pytest.mark.parametrize(("columns", "groups"), [(40, 3), (1100, 2)])
def test_gram_matrices_in_panels_and_in_chunks_of_rows(columns: int, groups: int) -> None:
    x = torch.randn(groups, 60, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = x.transpose(1, 2) @ x
    bound = 60 * EPS * (x.abs().transpose(1, 2) @ x.abs())  # of sums of 60 products in any order
    assert ((gram(x) - wanted).abs() <= bound).all()
    for rows, product, most in zip(x, wanted, bound, strict=True):
        total = x.new_zeros(columns, columns)
        for part in rows.split(25):
            add_gram(total, part)
        assert ((mirror(total) - product).abs() <= most).all()


class TwoWide(nn.Module):
    """Two coupled sets, one of which a concatenation ties to a third reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Conv2d(32, 16, 1)
        self.d = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = self.b(a).relu()
        return self.d(self.c(torch.cat([a, b], 1)).relu()).mean((2, 3))


def test_the_choice_is_the_same_in_one_run_and_in_many_and_in_chunks_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    traced = trace(TwoWide().double().eval(), torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    plan = make_plan(traced, load_rules("everywhere"), 0.5)
    planned = Planned(plan)
    x = torch.randn(12, 3, 16, 16, dtype=torch.float64)
    whole = by_greedy(traced, planned, [(x,)], rows=500, seed=3).plan
    assert whole != plan
    assert by_greedy(traced, planned, [(x,)], rows=500, seed=3).plan == whole
    monkeypatch.setattr(readers, "_MOST_BYTES", 1)
    assert by_greedy(traced, planned, [(x,)], rows=500, seed=3).plan == whole
    assert by_greedy(traced, planned, [(part,) for part in x.split(5)], rows=500, seed=3).plan == whole
