"""Images made from BatchNorm statistics: that they match them, and when they join a user's few."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.calibrate import synthetic
from octify.calibrate.images import Images, gather, gradient_batch
from octify.trace import trace
from tests.test_calibration import settled, smooth

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


def test_as_many_images_follow_gradients_as_fit_in_2_gib(net: nn.Module) -> None:
    traced = trace(net, smooth(1))
    batch = gradient_batch(traced)
    values = sum(facts.new_bytes for facts in trace(net, smooth(2)).facts.values()) / 2
    assert batch * values <= 2 * 2**30 < (batch + 1) * values


# Few images -----------------------------------------------------------------------------------------------


def test_few_images_are_joined_by_made_ones(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "STEPS", 3)
    monkeypatch.setattr(synthetic, "ENOUGH", 126)
    traced = trace(net, smooth(1))
    few = _gathered(smooth(48, 7), net)
    assert (few.count, few.given, few.made) == (42, 42, 0)
    joined = synthetic.joined_by_made(traced, few, 0, lambda what, done, of: None)
    assert (joined.count, joined.given, joined.made) == (42 + 64, 42, 64)
    assert joined.held_out is few.held_out
    assert any("42 images are few: 64 more were made" in told for told in joined.warnings)
    for many in (
        _gathered(smooth(144, 7), net),
        dataclasses.replace(few, chunks=few.chunks * 3),
    ):
        assert synthetic.joined_by_made(traced, many, 0, lambda what, done, of: None) is many


def test_none_are_made_where_that_takes_long_or_nothing_says_how(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = _gathered(smooth(48, 7), net)
    bare = settled(norm=False)
    assert synthetic.joined_by_made(trace(bare, smooth(1)), few, 0, lambda what, done, of: None) is few
    monkeypatch.setattr(synthetic, "AFFORDABLE", 1e6)
    assert synthetic.joined_by_made(trace(net, smooth(1)), few, 0, lambda what, done, of: None) is few


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_are_made_in_the_models_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "STEPS", 2)
    traced = trace(settled().to(dtype), smooth(1).to(dtype))
    (batch,) = synthetic.synthetic_images(traced, 8, steps=2)
    assert batch[0].dtype == dtype and bool(torch.isfinite(batch[0]).all())
    traced.module(*batch)


def _gathered(images: Tensor, net: nn.Module) -> Images:
    return gather(trace(net, smooth(1)), [images], device=CPU)
