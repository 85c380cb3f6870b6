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


def on_a_diagonal(net: Net, x: Tensor) -> Tensor:
    x.diagonal(0, 2, 3).mul_(net.gain)
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
    of_a_view,
    under_a_view,
    a_number,
]


def test_changes_that_data_flow_cannot_say_are_refused() -> None:
    with pytest.raises(TraceError, match="of which a view is read later"):
        octify.convert(Net(on_a_diagonal).eval(), torch.zeros(1, 3, 16, 16))


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


class Whole(nn.Module):
    """It changes, in place, a view that is all of a map, and reads the map afterwards."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        part = self.view(y)
        part.mul_(0.5)
        return self.last(F.relu(y) + part)


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "expand": lambda y: y.expand(-1, -1, -1, -1),
    "expand to its shape": lambda y: y.expand(y.shape),
    "expand_as": lambda y: y.expand_as(y),
    "broadcast_to": lambda y: torch.broadcast_to(y, y.shape),
    "broadcast_tensors": lambda y: torch.broadcast_tensors(y, y)[0],
    "atleast": lambda y: torch.atleast_3d(y),
    "flatten of one": lambda y: y.flatten(1, 1),
    "unflatten": lambda y: y.unflatten(1, (8,)),
    "view": lambda y: y.view(y.shape),
    "reshape": lambda y: y.reshape(y.size(0), 8, y.size(2), y.size(3)),
    "view_as": lambda y: y.view_as(y),
    "narrow": lambda y: y.narrow(1, 0, 8),
    "slices": lambda y: y[:, 0:8],
    "transpose": lambda y: y.transpose(2, 2),
    "twice transposed": lambda y: y.mT.mT,
    "permute": lambda y: y.permute(0, 1, 2, 3),
    "unsqueeze": lambda y: y.unsqueeze(0)[0],
    "contiguous": lambda y: y.contiguous(),
    "to": lambda y: y.to(y.dtype),
    "type_as": lambda y: y.type_as(y),
    "as_strided": lambda y: y.as_strided(y.shape, y.stride()),
    "as_tensor": lambda y: torch.as_tensor(y),
    "plus": lambda y: +y,
    "tensor_split": lambda y: y.tensor_split(1, 1)[0],
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_view_that_is_all_of_a_map(name: str) -> None:
    torch.manual_seed(0)
    model = Whole(WHOLE[name]).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plain = octify.convert(model, x, alpha=0.0).model
    result = octify.convert(model, x, alpha=0.5, rules="everywhere", kernels="exact")
    assert any(c.low_out for c in result.plan.convs)
    reference = octify.reference(model, result.plan, x)
    for other in (x, torch.randn(3, 3, 12, 16, dtype=torch.float64)):
        with torch.no_grad():
            assert torch.equal(plain(other), model(other))
            torch.testing.assert_close(result.model(other), reference(other), rtol=0, atol=1e-12)


# Parts of a map, and the map in another order: what reads the map later must not read old values.
NOT_WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "half": lambda y: y[:, :4],
    "at this size": lambda y: y[:, :, :8],
    "last": lambda y: y.permute(0, 2, 3, 1),
    "sample": lambda y: y[0],
}


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_a_view_that_is_not_all_of_a_map(name: str) -> None:
    class Part(Whole):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            self.view(y).mul_(0.5)
            return self.last(y)

    torch.manual_seed(0)
    model = Part(NOT_WHOLE[name]).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    try:
        plain = octify.convert(model, x, alpha=0.0).model
    except octify.OctifyError:
        return  # refused, which is right if not helpful
    for other in (x, torch.randn(3, 3, 12, 16, dtype=torch.float64)):
        with torch.no_grad():
            assert torch.equal(plain(other), model(other))
