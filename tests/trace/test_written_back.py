"""A part of a value, or the value in another order, that is changed in place changes the value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from tests.oracle import EXACT, assert_same, noise

View = Callable[[Tensor], Tensor]

VIEWS: dict[str, View] = {
    "half": lambda y: y[:, :4],
    "every second": lambda y: y[:, 1::2],
    "one": lambda y: y[:, 3],
    "narrow": lambda y: y.narrow(1, 2, 3),
    "narrow from the end": lambda y: y.narrow(-3, 2, 3),
    "select": lambda y: y.select(1, 2),
    "chunk": lambda y: y.chunk(3, 1)[1],
    "split": lambda y: y.split([3, 5], 1)[1],
    "unbind": lambda y: y.unbind(1)[2],
    "last": lambda y: y.permute(0, 2, 3, 1),
    "moved": lambda y: y.movedim(1, -1),
    "transposed": lambda y: y.transpose(2, 3),
    "tokens": lambda y: y.flatten(2),
    "groups": lambda y: y.view(y.shape[0], 2, 4, *y.shape[2:])[:, 0],
    "a dimension more": lambda y: y.unsqueeze(2),
    "rows": lambda y: y[:, :, 2:6],
    "a row": lambda y: y[:, :, 0],
    "a sample": lambda y: y[0],
    "a part of a part": lambda y: y[:, :6][:, 2:],
}
CHANGES: dict[str, Callable[[Tensor], object]] = {
    "mul_": lambda v: v.mul_(0.5),
    "twice": lambda v: v.add_(1).relu_(),
    "zero_": lambda v: v.zero_(),
    "fill_": lambda v: v.fill_(0.25),
    "flag": lambda v: F.relu(v, inplace=True),
    "itself": lambda v: v.sub_(v.mean()),
    "assignment": lambda v: v.__setitem__(..., 2.0),
}


class Changed(nn.Module):
    """It changes views of a map one after the other, then reads the map, and one of the views."""

    def __init__(self, steps: list[tuple[str, str]], again: str | None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)
        self.steps, self.again = steps, again

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        early = None if self.again is None else VIEWS[self.again](y)
        for view, change in self.steps:
            CHANGES[change](VIEWS[view](y))
        return self.last(y) if early is None else self.last(y) + early.sum()


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(VIEWS)), st.sampled_from(sorted(CHANGES))), min_size=1, max_size=3
    ),
    st.none() | st.sampled_from(sorted(VIEWS)),
)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_map_is_changed_with_its_views(steps: list[tuple[str, str]], again: str | None) -> None:
    torch.manual_seed(0)
    model, x = Changed(steps, again).double().eval(), noise(2, 3, 8, 8)
    plain = octify.convert(model, x, alpha=0.0).model
    result = octify.convert(model, x, rules="everywhere", kernels="exact")
    assert any(conv.low_out for conv in result.plan.convs)
    reference = octify.reference(model, result.plan, x)
    for other in (x, noise(3, 3, 12, 16)):
        with torch.no_grad():
            assert_same(plain(other), model(other), EXACT)
            assert_same(result.model(other), reference(other), EXACT)


@pytest.mark.parametrize("copy", [lambda y: y[:, [0, 2, 1]], lambda y: y.permute(0, 2, 3, 1).contiguous()])
@pytest.mark.parametrize("part", ["half", "last"])
def test_a_copy_that_was_taken_before_is_as_it_was(copy: View, part: str) -> None:
    class Kept(Changed):
        def forward(self, x: Tensor) -> Tensor:
            y = self.second(F.relu(self.first(x)))
            before = copy(y)
            VIEWS[part](y).mul_(2)
            return self.last(y) + before.sum()

    torch.manual_seed(0)
    model, x = Kept([], None).double().eval(), noise(2, 3, 8, 8)
    result = octify.convert(model, x, rules="everywhere", kernels="exact")
    with torch.no_grad():
        assert_same(octify.convert(model, x, alpha=0.0).model(x), model(x), EXACT)
        assert_same(result.model(x), octify.reference(model, result.plan, x)(x), EXACT)
