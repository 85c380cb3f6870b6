"""Methods of tensors, called by way of the class."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import octify
from tests.oracle import EXACT, assert_same, noise

C = 8
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "narrow": lambda x: Tensor.narrow(x, 1, 0, C),
    "index_select": lambda x: Tensor.index_select(x, 1, torch.arange(C)),
    "relu": lambda x: torch.Tensor.relu(x),
    "relu_": lambda x: Tensor.relu_(x),
    "mul": lambda x: Tensor.mul(x, 2),
    "view": lambda x: Tensor.view(x, x.shape),
    "permute": lambda x: Tensor.permute(Tensor.permute(x, 0, 2, 3, 1), 0, 3, 1, 2),
    "mean": lambda x: x * Tensor.mean(x, (2, 3), keepdim=True),
    "chunk": lambda x: Tensor.chunk(x, 1, 1)[0],
    "operator": lambda x: Tensor.__add__(x, 1),
    "item": lambda x: Tensor.__getitem__(x, (slice(None), slice(0, C))),
    "flip": lambda x: Tensor.flip(x, (1,)),
    "clamp": lambda x: Tensor.clamp(x, 0, 1),
    "contiguous": lambda x: Tensor.contiguous(x),
    "maximum": lambda x: Tensor.maximum(x, x * 0.5),
}


class Net(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.call, self.last = nn.Conv2d(3, C, 3, padding=1), call, nn.Conv2d(C, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.call(self.first(x)))


@pytest.mark.parametrize("name", CALLS)
def test_it_is_the_method(name: str) -> None:
    before = dict(vars(Tensor))
    model, x = Net(CALLS[name]).double().eval(), noise(2, 3, 8, 8)
    result = octify.convert(model, x, rules="everywhere", kernels="exact")
    assert sum(conv.converted for conv in result.plan.convs) == 2
    assert dict(vars(Tensor)) == before
    with torch.no_grad():
        assert_same(result.model(x), octify.reference(model, result.plan, x)(x), EXACT)
        same = octify.convert(model, x, alpha=0).model
        assert_same(same(x), model(x), EXACT)
