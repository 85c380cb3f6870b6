"""What a model changes in place is changed in the converted model too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.errors import TraceError

Act = Callable[["Net", Tensor], Tensor]


def by_method(net: Net, x: Tensor) -> Tensor:
    x.mul_(net.gain)
    return x


def by_function(net: Net, x: Tensor) -> Tensor:
    torch.relu_(x)
    return x


def by_flag(net: Net, x: Tensor) -> Tensor:
    F.relu(x, True)
    return x


def by_module(net: Net, x: Tensor) -> Tensor:
    net.relu(x)
    return x


def seen_by_the_shortcut(net: Net, x: Tensor) -> Tensor:
    shortcut = x
    x += 1.0
    return net.third(x) + shortcut


def seen_twice(net: Net, x: Tensor) -> Tensor:
    y = net.third(x)
    x.add_(y)
    x.clamp_(min=-0.5)
    return x + y


def on_a_part(net: Net, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    first.mul_(net.gain)
    return torch.cat([second, first], 1)


def a_number(net: Net, x: Tensor) -> Tensor:
    height = x.size(2)
    before = height
    height += 1
    return x * (height - before + 1.0)


def of_a_view(net: Net, x: Tensor) -> Tensor:
    first = x[:, :4]
    first.mul_(net.gain)
    return net.third(x)


def under_a_view(net: Net, x: Tensor) -> Tensor:
    first = x[:, :4]
    x.mul_(net.gain)
    return torch.cat([first, x[:, 4:]], 1)


class Net(nn.Module):
    def __init__(self, act: Act) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.relu = nn.ReLU(inplace=True)
        self.gain = nn.Parameter(torch.tensor(0.3))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self, self.second(self.first(x))))


PLAIN = [
    by_method,
    by_function,
    by_flag,
    by_module,
    seen_by_the_shortcut,
    seen_twice,
    on_a_part,
    a_number,
]


@pytest.mark.parametrize("act", [of_a_view, under_a_view], ids=lambda act: act.__name__)
def test_changes_that_data_flow_cannot_say_are_refused(act: Act) -> None:
    with pytest.raises(TraceError, match="of which a view is read later"):
        octify.convert(Net(act).eval(), torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("act", PLAIN, ids=lambda act: act.__name__)
@torch.no_grad()
def test_in_place_changes_are_kept(act: Act) -> None:
    """Alpha 0 equals the original, and exact kernels the projected reference."""
    torch.manual_seed(0)
    model, x = Net(act).double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    wanted = model(x.clone())
    dense = octify.convert(model, x, 0.0, "everywhere")
    assert torch.equal(dense.model(x.clone()), wanted)
    result = octify.convert(model, x, 0.5, "everywhere", "exact")
    assert sum(conv.converted for conv in result.plan.convs) >= 3
    assert result.report.layers
    reference = octify.reference(model, result.plan, x)(x.clone())
    torch.testing.assert_close(result.model(x.clone()), reference, rtol=0, atol=1e-12)
    assert not torch.allclose(reference, wanted)
