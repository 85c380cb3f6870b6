"""Operations that only move channels and positions: no merge, and the projected reference exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.layout.roles import regrouped
from tests.between import Between, assert_exact, assert_refused, converted
from tests.oracle import EXACT, assert_same, noise, randomised

Function = Callable[[Tensor], Tensor]


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.size()
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def unpicked(x: Tensor) -> Tensor:
    a, b = x.unflatten(1, (2, 4)).unbind(1)
    return torch.cat((b, a), 1)


def stacked(x: Tensor, dim: int) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.stack((a, b.relu()), dim).flatten(1, 2)


MOVES: dict[str, Function] = {
    "shuffle": shuffled,
    "nn.ChannelShuffle": nn.ChannelShuffle(4),
    "F.channel_shuffle": lambda x: torch.channel_shuffle(x, 2),
    "shuffle by permute": lambda x: x.reshape((x.shape[0], 4, 2, x.shape[2], x.shape[3])).permute(0, 2, 1, 3, 4).flatten(1, 2),
    "shuffle by movedim": lambda x: x.unflatten(1, (2, 2, 2)).movedim(1, 3).reshape(x.shape),
    "activation while reshaped": lambda x: torch.relu(x.view(x.shape[0], 2, 4, x.size(2), -1)).flatten(1, 2),
    "modules": nn.Sequential(nn.Unflatten(1, (2, 4)), nn.SiLU(), nn.Flatten(1, 2)),
    "channels last": lambda x: torch.sigmoid(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "channels last and split": lambda x: x.permute(0, 2, 3, 1).unflatten(-1, (4, 2)).movedim(-1, 1).permute(0, 1, 4, 2, 3).flatten(1, 2),
    "height and width": lambda x: x.transpose(2, 3).relu(),
    "swapaxes": lambda x: torch.swapaxes(x, -1, -2),
    "view as": lambda x: x.unflatten(1, (2, 4)).view_as(x),
    "unsqueeze, squeeze": lambda x: x.unsqueeze(2).relu().squeeze(2),
    "channel reversed": lambda x: x.flip(1),
    "mirror": lambda x: torch.flip(x, (-1,)),
    "all flipped": lambda x: x.flip((1, 2, 3)),
    "roll channels": lambda x: torch.roll(x, 3, 1),
    "roll blocks": lambda x: torch.roll(x, (2, -4, 1), (2, 3, 1)),
    "unbind": unpicked,
    "stack": lambda x: stacked(x, 1),
    "stack inside": lambda x: stacked(x, 2),
    "cat in channels last": lambda x: torch.cat([x.permute(0, 2, 3, 1)[..., 3:], x.permute(0, 2, 3, 1)[..., :3]], -1).permute(0, 3, 1, 2),
    "tensor_split": lambda x: torch.cat([x.tensor_split(3, dim=1)[2], *(x.tensor_split((2, 6), 1)[i] for i in (1, 0))], 1),
    "even crop": lambda x: x[..., 2:, :8],
    "computed crop": lambda x: x[:, :, : x.shape[2] - 2, : x.shape[3] - 4],
    "crop from the end": lambda x: x[:, :, -4:, 2:-2],
    "every second position": lambda x: x[..., ::2, ::2],
    "the others": lambda x: x[:, :, 1::2, 1::2],
    "every fourth": lambda x: x[:, :, ::4, 2::4],
    "indexed by a list": lambda x: x[:, [3, 1, 2, 0, 7, 6, 5, 4]],
    "new axis": lambda x: x[:, None].relu()[:, 0],
    "middle of a view": lambda x: x.unflatten(1, (4, 2))[:, 1:, ::1].flatten(1, 2).repeat_interleave(4, 1).narrow(1, 3, 8),
    "expand": lambda x: x[:, 4:].unsqueeze(1).expand(-1, 2, -1, -1, -1).flatten(1, 2),
    "repeat": lambda x: x[:, ::2].repeat(1, 2, 1, 1),
    "computed bounds": lambda x: torch.cat((x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]), 1),
    "select": lambda x: x.unflatten(1, (2, 4)).select(1, 1).repeat(1, 2, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_no_merge_and_exact(name: str) -> None:
    assert_exact(MOVES[name])


class Picked(nn.Module):
    """Channels by constant indices that the module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([7, 0, 6, 1, 5, 2, 4, 3]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, 1, self.get_buffer("order"))


def test_channels_by_a_constant_index() -> None:
    assert_exact(Picked())


REFUSED: dict[str, tuple[Function, str]] = {
    "positions joined": (lambda x: x.flatten(2).relu().view(x.shape), "joins or splits positions"),
    "positions split": (lambda x: x.view(x.shape[0], 8, 4, 2, 12).flatten(2, 3).relu(), "joins or splits positions"),
    "into the batch": (lambda x: x.reshape(x.shape[0] * 2, 4, 8, 12).reshape(x.shape[0], 8, 8, 12), "mixes the batch"),
    "batch moved": (lambda x: x.transpose(0, 1).relu().transpose(0, 1), "moves the batch"),
    "odd window": (lambda x: x[:, :, 1:7, 2:], "begins at an odd position"),
    "every third": (lambda x: x[:, :, ::3, ::3], "every second position"),
    "one axis": (lambda x: x[:, :, ::2], "every second position"),
    "rolled by one": (lambda x: torch.roll(x, 1, 2), "less than whole blocks"),
    "one sample": (lambda x: x + x[:1], "picks samples"),
    "one row": (lambda x: x + x[:, :, 0].unsqueeze(2), "picks one position"),
    "parts used together": (lambda x: torch.cat(torch.chunk(x, 2, dim=1), 1), "used together"),
    "rows apart": (lambda x: torch.cat((x.chunk(2, 2)[1], x.chunk(2, 2)[0]), 2), "another dimension than channels"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_reason(name: str) -> None:
    assert_refused(*REFUSED[name])


@settings(max_examples=12)
@given(st.data())
def test_any_chain_of_moves_of_channels(data: st.DataObject) -> None:
    """Reshapes, permutations of all dimensions but the batch, and activations, drawn and then undone."""
    sizes: list[Any] = [8, 8, 12]
    steps: list[tuple[str, Any]] = []
    back: list[tuple[str, Any]] = []
    spatial = [1, 2]
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["split", "permute", "relu", "one"]))
        if kind == "split":
            places = [i for i, n in enumerate(sizes) if i not in spatial and n % 2 == 0]
            if not places:
                continue
            at = data.draw(st.sampled_from(places))
            step = ("unflatten", (at + 1, (2, sizes[at] // 2)))
            back.append(("flatten", (at + 1, at + 2)))
            sizes[at : at + 1] = [2, sizes[at] // 2]
            spatial = [s + (s > at) for s in spatial]
        elif kind == "permute":
            order = data.draw(st.permutations(range(len(sizes))))
            step = ("permute", (0, *(i + 1 for i in order)))
            back.append(("permute", (0, *(1 + int(i) for i in np.argsort(order)))))
            sizes = [sizes[i] for i in order]
            spatial = [order.index(s) for s in spatial]
        elif kind == "one":
            at = data.draw(st.integers(0, len(sizes)))
            step = ("unsqueeze", (at + 1,))
            back.append(("squeeze", (at + 1,)))
            sizes.insert(at, 1)
            spatial = [s + (s >= at) for s in spatial]
        else:
            step = ("relu", ())
        steps.append(step)

    def operation(x: Tensor) -> Tensor:
        for name, arguments in steps:
            x = getattr(x, name)(*arguments)
        x = x.tanh()
        for name, arguments in reversed(back):
            x = getattr(x, name)(*arguments)
        return x

    assert_exact(operation, alphas=(0.5,))


@given(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3), st.data())
def test_regrouped_names_what_moved(channels: list[int], data: st.DataObject) -> None:
    """Against positions themselves: a reshape is allowed only if every element's place says the same thing."""
    roles = data.draw(st.permutations("C" * len(channels) + "SS"))
    rest = iter(channels)
    space = iter((5, 7))
    shape = (2, *(next(rest) if role == "C" else next(space) for role in roles))
    total = int(np.prod(channels))
    factors = data.draw(
        st.sampled_from([(total,), (total, 1), *((k, total // k) for k in (2, 3) if total % k == 0)])
    )
    after = (2, *factors, 5, 7)
    found = regrouped("N" + "".join(roles), shape, after)
    if "".join(roles) == "C" * len(channels) + "SS":
        assert found == "N" + "C" * len(factors) + "SS"
    elif found is not None:
        # The values of the spatial index must come back as a broadcast along one dimension each.
        for which, size in ((0, 5), (1, 7)):
            spatial = [i for i, role in enumerate("N" + "".join(roles)) if role == "S"][which]
            index = np.arange(size).reshape([-1 if i == spatial else 1 for i in range(len(shape))])
            moved = np.broadcast_to(index, shape).reshape(after)
            place = [i for i, role in enumerate(found) if role == "S"][which]
            wanted = np.arange(size).reshape([-1 if i == place else 1 for i in range(len(after))])
            assert np.array_equal(moved, np.broadcast_to(wanted, after))


def test_a_batch_of_one_is_not_taken_for_another_dimension() -> None:
    """view(1, ...) at a batch of one might mean the batch or not."""
    model = randomised(Between(lambda x: x.view(1, 2, 4, 8, 12).flatten(1, 2)))
    made = converted(model, noise(1, 3, 8, 12))
    assert any("batch" in b.reason for b in made.boundaries)


def test_other_sizes_than_the_example() -> None:
    """Nothing of a move is fixed to the example's batch or map size."""
    model = randomised(Between(lambda x: shuffled(x)[..., 2:, : x.shape[3] - 2].flip(1)))
    made = converted(model, noise(2, 3, 8, 12))
    from octify.passes.reference import reference

    x = noise(3, 3, 16, 20)
    with torch.no_grad():
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)
