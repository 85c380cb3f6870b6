"""Distillation: its coordinates, its images, and that it never ends worse than it began."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.calibrate import recipe
from octify.calibrate.distill import directions, distill
from octify.calibrate.distill.features import compared
from octify.calibrate.distill.judge import Judge
from octify.calibrate.fit.linear_form import blocks
from octify.calibrate.fit.order import repair_order
from octify.calibrate.fit.sites import sites
from octify.calibrate.fit.solve import Fit
from octify.calibrate.inputs.augment import augmented, blended
from octify.calibrate.inputs.images import Images, gather
from octify.data.moves import Moves
from octify.nn.functional import pool
from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace
from tests.calibrate.test_recipe import settled, smooth

CPU = torch.device("cpu")
seeds = st.integers(0, 2**31 - 1)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return settled()


# Images ---------------------------------------------------------------------------------------------------


@given(seed=seeds, h=st.integers(1, 19), w=st.integers(2, 19), middle=st.lists(st.integers(0, 3), max_size=3))
def test_each_image_is_shifted_by_its_own_reflected_shift(
    seed: int, h: int, w: int, middle: Sequence[int]
) -> None:
    x = torch.randn(5, *middle, h, w, generator=torch.Generator().manual_seed(seed))
    moves = Moves.drawn(len(x), (h, w), torch.Generator().manual_seed(seed))
    found = moves.apply(x)
    assert found.shape == x.shape
    for image, moved, rows, columns in zip(x, found, moves.rows, moves.columns, strict=True):
        assert torch.equal(moved, image[..., rows, :][..., columns])
        for places, size in ((rows, h), (columns, w)):
            steps = places.diff().abs()
            assert bool((steps <= 1).all())  # neighbours stay neighbours, mirrored at the ends
            assert int(places.min()) >= 0 and int(places.max()) < size
            assert len(places.unique()) >= size - max(1, size // 8)


def test_moves_differ_between_images_and_alike_between_inputs() -> None:
    x = smooth(16)
    a, b = augmented([x, x.clone()], torch.Generator().manual_seed(0))
    assert torch.equal(a, b)
    moves = Moves.drawn(64, (32, 32), torch.Generator().manual_seed(0))
    assert len({tuple(map(int, rows)) for rows in moves.rows}) > 4


@given(seed=seeds, count=st.integers(1, 9))
def test_blended_images_are_more_themselves_than_another(seed: int, count: int) -> None:
    x = torch.eye(count)
    (found,) = blended([x], torch.Generator().manual_seed(seed))
    torch.testing.assert_close(found.sum(1), torch.ones(count))
    assert bool((found.diagonal() >= 0.5).all()) and bool((found >= 0).all())
    assert bool(((found > 0).sum(1) <= 2).all())


def test_what_cannot_be_blended_is_left_alone() -> None:
    batch = [smooth(8), torch.arange(8)]
    for x, y in zip(batch, blended(batch, torch.Generator()), strict=True):
        assert torch.equal(x, y)


# Coordinates ----------------------------------------------------------------------------------------------


@given(seed=seeds, rank=st.integers(1, 12))
def test_a_unit_step_changes_an_output_by_at_most_its_own_size(seed: int, rank: int) -> None:
    """In any direction, however badly the data shows it, and fully where it shows it well."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1)).eval()
    traced = trace(net, torch.zeros(1, 4, 8, 8))
    rewritten = rewrite(traced, make_plan(traced, load_rules("everywhere"), 0.5))
    found, _ = sites(traced, rewritten, repair_order(traced))
    site = found[-1]
    (block,) = blocks(site.conv, "high")
    rows = torch.randn(50, rank) @ torch.randn(rank, block.unknowns)
    gram = (rows.T @ rows / len(rows))[None]
    fit = Fit(torch.randn(1, block.unknowns + 1, block.outputs), gram)
    (made,) = directions.directions(rewritten.module, [site], {(site.path, "high"): [(block, fit)]})
    v, _ = made.start()
    size = (rows @ fit.weights[0, :-1]).square().mean(0).sqrt()
    # Sizes come from the Gram matrix, whose rounding hides outputs that nearly cancel.
    each = rows.square().mean(0).sum() * fit.weights[0, :-1].square().sum(0)
    hidden = (torch.finfo(torch.float32).eps * block.unknowns * each).sqrt()
    steps = torch.eye(block.unknowns)
    for output in range(block.outputs):
        changes = []
        for step in steps:
            w = v.clone()
            w[0, :, output] = step
            changes.append((rows @ ((made.whitening @ w) * made.factor)[0]).square().mean(0).sqrt())
        change = torch.stack(changes)
        largest = float(change[:, output].max())
        assert largest <= float(size[output]) * (1 + 1e-4) + float(hidden[output])
        assert largest >= 0.5 * float(size[output] - hidden[output])  # the mean eigenvalue and more
        others = [o for o in range(block.outputs) if o != output]
        assert not change[:, others].any()
    own = {name: p.detach() for name, p in rewritten.module.named_parameters()}
    changed: dict[str, Tensor] = {}
    made.add_to(changed, own, *made.start())
    assert changed and all(torch.equal(own[name], value) for name, value in changed.items())


# The maps that are compared -------------------------------------------------------------------------------


def _sites(net: nn.Module, alpha: float = 0.5) -> tuple[Any, Any, Any]:
    traced = trace(copy.deepcopy(net), smooth(1))
    rewritten = rewrite(traced, make_plan(traced, load_rules("everywhere"), alpha))
    found, _ = sites(traced, rewritten, repair_order(traced))
    return traced, rewritten, found


def test_maps_are_compared_with_the_originals_and_its_means(net: nn.Module) -> None:
    traced, rewritten, found = _sites(net)
    models = compared(copy.deepcopy(traced.module), rewritten, found)
    x = smooth(8, 5)
    with torch.no_grad():
        output, maps = models.teacher(x)
        given_output, made = models.student(x)
        assert torch.equal(output, net(x)) and torch.equal(given_output, rewritten.module(x))
        assert len(maps) == 2 and len(made) == 4  # what conv1 and conv2 read
        perfect = list(made)
        for value, branches in zip(maps, models.branches, strict=True):
            for channels, place in branches:
                part = value[:, channels]
                perfect[place] = part if part.shape == made[place].shape else pool(part)
        assert float(models.loss(perfect, maps)) == 0
        nothing = [torch.zeros_like(value) + 0.0 for value in made]
        assert float(models.loss(made, maps)) < float(models.loss(nothing, maps))


# Training -------------------------------------------------------------------------------------------------


def _images(x: Tensor, net: nn.Module) -> Images:
    return gather(trace(net, smooth(1)), [x], most=512, device=CPU)


class PerInput(nn.Module):
    """Gives each of its inputs, which are numbered, an error of its own."""

    def __init__(self, errors: list[float]) -> None:
        super().__init__()
        self.errors = nn.Parameter(torch.tensor(errors), requires_grad=False)

    def forward(self, number: Tensor) -> Tensor:
        return torch.stack([number, number + self.errors[number.long()]], dim=1)


@pytest.mark.parametrize(
    ("learned", "kept"),
    [
        ([0.5] * 8, True),
        ([0.5] * 7 + [4.0], True),  # their sum has grown: one of eight is bad
        ([1.1] * 7 + [0.1], True),  # their sum has fallen
        ([1.5] * 8, False),
        ([1.5] * 7 + [1.0], False),
        ([0.9] * 7 + [1e6], False),
        ([0.5] * 7 + [math.nan], False),
    ],
)
def test_what_is_learned_is_kept_unless_the_inputs_kept_aside_speak_against_it(
    learned: list[float], kept: bool
) -> None:
    student, inputs = PerInput([1.0] * 8), [(torch.arange(8.0),)]
    wanted = [torch.stack([torch.arange(8.0)] * 2, dim=1)]
    judge = Judge(student, inputs, wanted)
    judge.look(5, {"errors": torch.tensor(learned)})
    assert torch.equal(student.errors, torch.ones(8))  # not before the end
    told = judge.kept(5, 5, 1.0)
    assert torch.equal(student.errors, torch.tensor(learned if kept else [1.0] * 8))
    assert told.kept == (5 if kept else 0) and ("undone" in told.sentence()) == (not kept)


@given(errors=st.lists(st.floats(0.1, 3.0), min_size=1, max_size=8))
def test_the_best_of_all_looks_stays(errors: list[float]) -> None:
    student, inputs = PerInput([1.0] * 8), [(torch.arange(8.0),)]
    wanted = [torch.stack([torch.arange(8.0)] * 2, dim=1)]
    judge = Judge(student, inputs, wanted)
    for step, error in enumerate(errors, 1):
        judge.look(step, {"errors": torch.full((8,), error)})
    told = judge.kept(len(errors), 10, 1.0)
    best = min(1.0, *errors)
    torch.testing.assert_close(student.errors, torch.full((8,), best))
    assert told.kept == 0 or errors[told.kept - 1] == best
    rest = errors[told.kept :] if told.kept else errors
    assert judge.in_vain == len(rest)


def test_a_training_is_given_up_late_or_where_it_has_gone_wrong() -> None:
    """The first gain often comes with the small steps towards the end."""
    wanted = [torch.stack([torch.arange(8.0)] * 2, dim=1)]
    for error, hopeless in ((1.1, [False, False, True]), (3.0, [True] * 3), (0.9, [False] * 3)):
        judge = Judge(PerInput([1.0] * 8), [(torch.arange(8.0),)], wanted)
        assert not judge.hopeless(0.9)  # before the first look
        judge.look(1, {"errors": torch.full((8,), error)})
        assert [judge.hopeless(share) for share in (0.1, 0.5, 0.9)] == hopeless


def test_without_inputs_kept_aside_the_last_step_stays() -> None:
    student = PerInput([1.0] * 8)
    judge = Judge(student, [], [])
    judge.look(1, {"errors": torch.full((8,), 7.0)})
    assert "no inputs were kept aside" in judge.kept(1, 1, 1.0).sentence()
    assert torch.equal(student.errors, torch.full((8,), 7.0))


@pytest.mark.parametrize("aside", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_learned_weights_that_are_not_finite_never_stay(aside: bool, bad: float) -> None:
    student, inputs = PerInput([1.0] * 8), [(torch.arange(8.0),)] if aside else []
    wanted = [torch.stack([torch.arange(8.0)] * 2, dim=1)] if aside else []
    judge = Judge(student, inputs, wanted)
    judge.look(1, {"errors": torch.full((8,), 0.5)})
    spoilt = torch.full((8,), 0.25)
    spoilt[3] = bad
    judge.look(2, {"errors": spoilt})
    told = judge.kept(2, 2, 1.0)
    assert torch.equal(student.errors, torch.full((8,), 0.5))
    assert told.kept == 1 and "not finite" in told.sentence()
    assert judge.in_vain == 1, "a training that goes on so ends early"


def test_where_no_learned_weights_were_finite_those_from_before_stay() -> None:
    student = PerInput([1.0] * 8)
    judge = Judge(student, [], [])
    judge.look(1, {"errors": torch.full((8,), math.nan)})
    assert "weights from before stay" in judge.kept(1, 1, 1.0).sentence()
    assert torch.equal(student.errors, torch.ones(8))


def test_an_infinity_of_the_models_own_is_no_fault_of_training() -> None:
    student = PerInput([1.0] * 7 + [-math.inf])
    judge = Judge(student, [], [])
    learned = torch.tensor([0.5] * 7 + [-math.inf])
    judge.look(1, {"errors": learned})
    assert judge.kept(1, 1, 1.0).spoilt == 0
    assert torch.equal(student.errors, learned)


@pytest.mark.usefixtures("short_calibration")
def test_what_would_end_worse_is_not_kept(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {}
    for name, rate in (("sane", distill.RATE), ("wild", 1e3)):
        monkeypatch.setattr(distill, "RATE", rate)
        monkeypatch.setattr(recipe, "STEPS", {"standard": 60})
        result = octify.convert(net, smooth(1), 0.5, "everywhere", calibration=[smooth(96, 7)])
        kept[name] = result.report.calibration.after.relative_error
    monkeypatch.setattr(recipe, "STEPS", {})
    plain = octify.convert(net, smooth(1), 0.5, "everywhere", calibration=[smooth(96, 7)])
    assert kept["wild"] == plain.report.calibration.after.relative_error
    assert kept["sane"] < kept["wild"]


DENSE_END = """\
name = "dense end"
description = "The last convolution is octave on one side only."

[[rule]]
match = { path = "last.0" }
output = "dense"
reason = "its norm is one module in the original and in the converted model"
"""


@pytest.mark.usefixtures("short_calibration")
def test_the_teacher_is_the_original_and_not_what_fits_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)

    def part(channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())

    parts = {"stem": part(3), "middle": part(16), "last": part(16), "head": nn.Conv2d(16, 5, 16)}
    net = nn.Sequential(OrderedDict(parts)).eval()
    rules = tmp_path / "rules.toml"
    rules.write_text(DENSE_END)
    x, taught, shared = smooth(8, 5), [], set()

    def distilled(teacher: Any, rewritten: Any, *rest: Any, **options: Any) -> None:
        taught.append(teacher.module.eval()(x))
        shared.update({*map(id, teacher.module.parameters())} & {*map(id, rewritten.module.parameters())})
        distill.distill(teacher, rewritten, *rest, **options)

    monkeypatch.setattr(recipe, "distill", distilled)
    found = octify.convert(net, smooth(1), 0.5, rules, calibration=[smooth(96, 7)])
    monkeypatch.setattr(recipe, "STEPS", {})
    plain = octify.convert(net, smooth(1), 0.5, rules, calibration=[smooth(96, 7)])
    assert torch.equal(taught[0], net(x))
    assert not shared  # the fits write to what the converted model shares with others
    errors = [r.report.calibration.after.relative_error for r in (found, plain)]
    assert errors[0] <= errors[1]


@pytest.mark.usefixtures("short_calibration")
def test_images_of_several_sizes_are_distilled(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [smooth(40, 1), F.interpolate(smooth(40, 2), size=20), smooth(7, 3)]
    result = octify.convert(net, smooth(1), 0.5, "everywhere", calibration=sizes)
    monkeypatch.setattr(recipe, "STEPS", {})
    plain = octify.convert(net, smooth(1), 0.5, "everywhere", calibration=sizes)
    errors = [found.report.calibration.after.relative_error for found in (result, plain)]
    assert errors[0] < errors[1]


def test_every_image_is_seen_once_an_epoch(net: nn.Module) -> None:
    groups = [[torch.arange(70)], [torch.arange(100, 109)]]
    generator = torch.Generator().manual_seed(0)
    batches = distill._epoch(groups, 32, generator)
    numbers = [int(n) for group, picked in batches for n in group[0][picked]]
    assert len(numbers) == len(set(numbers)) == 64 + 9
    assert sorted(len(picked) for _, picked in batches) == [9, 32, 32]


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize(("seconds", "planned"), [(math.inf, 40), (0.0, 0)])
def test_a_distillation_has_a_budget_in_seconds_and_is_told(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, seconds: float, planned: int
) -> None:
    monkeypatch.setattr(recipe, "STEPS", {"standard": 40})
    monkeypatch.setattr(recipe, "SECONDS", {"standard": seconds})
    row = octify.convert(net, smooth(1), 0.5, "everywhere", calibration=[smooth(96, 7)]).report.calibration
    assert row is not None and row.distillation is not None
    assert row.to_dict()["distillation"] == row.distillation
    if planned:
        assert f"of {planned} steps" in row.distillation
    else:
        assert row.distillation.startswith("no distillation")


@given(steps=st.integers(1, 2000), affordable=st.floats(0, 5000))
def test_no_more_steps_than_are_affordable_and_none_where_they_are_too_few(
    steps: int, affordable: float
) -> None:
    found = distill._affordable(steps, affordable)
    assert found in (0, steps) or distill._LEAST_STEPS <= found <= affordable
    assert found <= steps and (found == steps) == (affordable >= steps)


def test_the_first_rate_is_a_share_of_the_error(net: nn.Module) -> None:
    """The loss of a network against itself is 0, and of one half as large a quarter of ten."""
    x = torch.randn(50, 7)
    assert float(distill.relative_loss([x], [x])) == 0
    centred = x - x.mean(1, keepdim=True)
    assert math.isclose(float(distill.relative_loss([centred / 2], [x])), 10 / 4, rel_tol=1e-5)
