"""Models whose forward changes their own parameters: weights of bounded norm, clipped weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import TraceError
from tests.oracle import EXACT, assert_same, noise


class Renormed(nn.Conv2d):
    """Max-norm constraint, as EEGNet's convolutions have it."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=1.0)
        return super().forward(x)


class Clamped(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(-0.1, 0.1)
        return super().forward(x)


class Copied(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.copy_(self.weight.data.sign())
        return super().forward(x)


class Normed(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = self.weight.data.clamp(max=0.5)
        return super().forward(x)


def net(layer: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer(), nn.ReLU(), nn.Conv2d(8, 4, 1))
    for parameter in model.parameters():
        parameter.data *= 3
    return model.double().eval()


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "renormed": lambda: Renormed(8, 8, 3, padding=1),
    "clamped": lambda: Clamped(8, 8, 3, padding=1),
    "copied": lambda: Copied(8, 8, 3, padding=1),
    "norm": lambda: Normed(8),
}


@pytest.mark.parametrize("name", LAYERS)
def test_converted_and_left_as_they_were(name: str) -> None:
    model, x = net(LAYERS[name]), noise(1, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        result = octify.convert(model, x, rules="everywhere", kernels="exact")
        wanted = octify.reference(model, result.plan, x)(x)
        octify.inspect(model, x)
        assert model.state_dict().keys() == before.keys()
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]) and not value.is_meta
        assert_same(result.model(x), wanted, EXACT)
        assert_same(octify.convert(model, x, alpha=0).model(x), copy.deepcopy(model)(x), EXACT)
    (told,) = (w for w in result.report.warnings if "changes its parameters" in w)
    assert "1.weight" in told


class Outside(nn.Module):
    """It clips the weights of a layer before it calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.b.weight.data.clamp_(-0.01, 0.01)
        y: Tensor = self.b(self.a(x))
        return y


def test_what_no_graph_holds_is_refused_with_the_reason() -> None:
    model, x = Outside().double().eval(), noise(1, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TraceError) as error:
        octify.convert(model, x)
    assert "changes the parameters b.weight" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_nothing_is_told_of_others() -> None:
    result = octify.convert(net(lambda: nn.Conv2d(8, 8, 3, padding=1)), noise(1, 3, 8, 8))
    assert not any("changes its parameters" in w for w in result.report.warnings)
