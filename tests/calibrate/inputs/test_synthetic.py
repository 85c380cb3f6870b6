"""Images made from BatchNorm statistics: that they match them, and how they join a user's few."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.calibrate import recipe
from octify.calibrate.inputs import few, synthetic
from octify.calibrate.inputs.augment import alteration, augmented, with_colours
from octify.calibrate.inputs.images import Images, gather
from octify.calibrate.options import Calibration
from octify.calibrate.streams.sizes import gradient_batch
from octify.trace import trace
from tests.calibrate.test_recipe import settled, smooth

CPU = torch.device("cpu")
COUNT = 24


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return settled()


def _mismatch(net: nn.Module, images: Tensor) -> float:
    """The mean over BatchNorms of what is to vanish, from all images at once."""
    found: list[Tensor] = []

    def look(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        assert (
            isinstance(norm, nn.BatchNorm2d)
            and norm.running_mean is not None
            and norm.running_var is not None
        )
        wanted, width = norm.running_mean, (norm.running_var + norm.eps).sqrt()
        mean, std = x.mean((0, 2, 3)), (x.var((0, 2, 3), correction=0) + norm.eps).sqrt()
        found.append((((mean - wanted) / width).square() + (std / width - 1).square()).mean())

    handles = [m.register_forward_pre_hook(look) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        net.eval()(images)
    for handle in handles:
        handle.remove()
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("group", [COUNT, 7])
def test_images_have_the_networks_statistics_all_together(
    group: int, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "gradient_batch", lambda traced: group)
    traced = trace(net, smooth(1))
    told: list[tuple[int, int]] = []
    made = synthetic.synthetic_images(
        traced, COUNT, steps=60, progress=lambda what, done, of: told.append((done, of))
    )
    images = torch.cat([batch for (batch,) in made])
    assert images.shape == (COUNT, *smooth(1).shape[1:])
    assert max(len(batch) for (batch,) in made) == group
    noise = synthetic.noise(tuple(images.shape), torch.Generator().manual_seed(0))
    assert _mismatch(net, images) < 0.1 * _mismatch(net, noise * images.std())
    groups = -(-COUNT // group)
    assert told == [(n, 60 * groups) for n in range(60 * groups)]
    again = torch.cat([batch for (batch,) in synthetic.synthetic_images(traced, COUNT, steps=60)])
    assert torch.equal(images, again)


@given(
    seed=st.integers(0, 2**31 - 1),
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    channels=st.integers(1, 4),
)
def test_moments_of_groups_are_those_of_all_their_images(
    seed: int, counts: Sequence[int], channels: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.randn(n, channels, 3, 2, generator=generator).double() for n in counts]

    def moments(x: Tensor) -> list[Tensor]:
        return [torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])]

    (found,) = synthetic._together([moments(group) for group in groups], [*groups, groups[0]])
    torch.testing.assert_close(found, moments(torch.cat(groups))[0])


def test_as_many_images_follow_gradients_as_fit_in_half_a_gib(net: nn.Module) -> None:
    traced = trace(net, smooth(1))
    batch = gradient_batch(traced)
    values = sum(facts.new_bytes for facts in trace(net, smooth(2)).facts.values()) / 2
    assert batch * values <= 2**29 < (batch + 1) * values


# Few images -----------------------------------------------------------------------------------------------


def _quiet(what: str, done: int, of: int) -> None:
    """No progress is told."""


def test_few_images_are_joined_by_made_ones(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "ENOUGH", 126)
    traced = trace(net, smooth(1))
    supplied = _gathered(smooth(48, 7), net)
    assert (supplied.count, supplied.user_count, supplied.generated) == (42, 42, 0)
    joined = few.joined_by_made(traced, supplied, 0, _quiet)
    assert (joined.count, joined.user_count, joined.generated) == (42 + 64, 42, 64)
    assert joined.held_out is supplied.held_out
    assert any("42 images are few: 64 more were made" in told for told in joined.warnings)
    for many in (
        _gathered(smooth(144, 7), net),
        dataclasses.replace(supplied, chunks=supplied.chunks * 3),
    ):
        assert few.joined_by_made(traced, many, 0, _quiet) is many


def test_none_are_made_where_that_takes_long_or_nothing_says_how(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _gathered(smooth(48, 7), net)
    bare = settled(norm=False)
    assert few.joined_by_made(trace(bare, smooth(1)), given, 0, _quiet) is given
    monkeypatch.setattr(few, "SECONDS", 1e-9)
    assert few.joined_by_made(trace(net, smooth(1)), given, 0, _quiet) is given


def test_made_images_start_from_those_of_the_examples_size(net: nn.Module) -> None:
    traced, own = trace(net, smooth(1)), smooth(5)
    found = few._copies(traced, Images(((own,), (own[..., :-2, :],)), (), ()), 11, seed=1)
    assert found is not None and found.shape == (11, *own.shape[1:])
    again = few._copies(traced, Images(((own,),), (), ()), 11, seed=1)
    assert again is not None and torch.equal(found, again)
    assert few._copies(traced, Images(((own[..., :-2, :],),), (), ()), 11, seed=1) is None


@given(
    seed=st.integers(0, 2**31 - 1), channels=st.integers(1, 6), size=st.lists(st.integers(1, 5), max_size=3)
)
def test_colours_turn_and_keep_their_lengths(seed: int, channels: int, size: Sequence[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(9, channels, *size, 1, generator=generator, dtype=torch.float64)
    found = with_colours(x, generator, share=1.0)
    torch.testing.assert_close(found.norm(dim=1), x.norm(dim=1))
    assert torch.equal(found, x) == (channels == 1)
    assert torch.equal(with_colours(x, generator, share=0.0), x)


@given(seed=st.integers(0, 2**31 - 1), level=st.floats(-3, 3))
def test_a_plain_image_stays_plain_however_it_is_turned(seed: int, level: float) -> None:
    x = torch.full((3, 2, 9, 12), level, dtype=torch.float64)
    torch.testing.assert_close(few.turned(x, torch.Generator().manual_seed(seed)), x)


def test_only_copies_of_few_images_are_coloured(net: nn.Module) -> None:
    images = _gathered(smooth(48, 7), net)
    batch = list(images.chunks[0])
    plain, coloured = (
        alteration(which)(batch, torch.Generator().manual_seed(0))[0]
        for which in (images, dataclasses.replace(images, generated=16))
    )
    assert torch.equal(plain, augmented(batch, torch.Generator().manual_seed(0))[0])
    turned = (plain != coloured).flatten(1).any(1)
    assert 0 < int(turned.sum()) < len(plain)


def test_few_images_are_distilled_on_for_longer(net: nn.Module) -> None:
    def steps(images: Images, effort: str) -> int:
        return recipe.steps_of(images, Calibration((), effort))

    given = _gathered(smooth(48, 7), net)
    joined = dataclasses.replace(given, generated=16)
    assert steps(joined, "standard") == 2 * steps(given, "standard") > 0
    assert steps(joined, "thorough") == steps(given, "thorough")
    assert steps(joined, "fast") == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_have_the_models_precision(dtype: torch.dtype) -> None:
    traced = trace(settled().to(dtype), smooth(1).to(dtype))
    (batch,) = synthetic.synthetic_images(traced, 8, steps=2)
    assert batch[0].dtype == dtype and bool(torch.isfinite(batch[0]).all())
    traced.module(*batch)


def _gathered(images: Tensor, net: nn.Module) -> Images:
    return gather(trace(net, smooth(1)), [images], device=CPU)
