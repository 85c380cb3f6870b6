"""A conversion computes what the model computes, or it is refused; the model itself is left as it was."""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import octify
from octify.errors import OctifyError


class Swallows(nn.Module):
    """Code that asks for a value, and goes on without it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        try:
            shift = float(y.mean())
        except Exception:
            shift = 0.0
        return self.b(y + shift)


class Result(OrderedDict[str, Tensor]):
    pass


class Named(Swallows):
    def forward(self, x: Tensor) -> Any:
        return Result(logits=self.b(self.a(x)))


def net(layer: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer, nn.Conv2d(8, 8, 3, padding=1)).double().eval()


def replaced(layer: nn.Module) -> None:
    method = types.MethodType(lambda self, x: type(self).forward(self, x * 2 + 1), layer)
    vars(layer)["forward"] = method


X = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ATTACH: list[Callable[[nn.Module], Any]] = [
    lambda m: m.register_forward_hook(lambda module, args, y: y * 2 + y.mean((2, 3), keepdim=True)),
    lambda m: m.register_forward_pre_hook(lambda module, args: (args[0] * 2 + 1,)),
    replaced,
]
LAYERS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.Identity,
    lambda: nn.BatchNorm2d(8),
    lambda: nn.GroupNorm(2, 8),
    lambda: nn.MaxPool2d(2),
    lambda: nn.Upsample(scale_factor=2),
    lambda: nn.ZeroPad2d(1),
    lambda: nn.Conv2d(8, 8, 1),
    lambda: nn.ConvTranspose2d(8, 8, 2, 2),
]


@torch.no_grad()
def is_kept(model: nn.Module, x: Tensor) -> bool:
    return torch.equal(octify.convert(model, x, 0.0).model(x), model(x))


@pytest.mark.parametrize("attach", ATTACH)
@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_attached_to_a_layer_is_kept(layer: Any, attach: Any) -> None:
    model = net(layer())
    attach(model[1])
    assert is_kept(model, X)
    exact = octify.convert(model, X, 0.5, rules="everywhere", kernels="exact")
    with torch.no_grad():
        wanted = octify.reference(model, exact.plan, X)(X)
        assert float((exact.model(X) - wanted).abs().max()) < 1e-9 * float(wanted.abs().max())


@pytest.mark.parametrize("attach", ATTACH[:2])
def test_hooks_of_the_model_itself_are_kept(attach: Any) -> None:
    model = net(nn.ReLU())
    attach(model)
    assert is_kept(model, X)


def test_a_graph_that_computes_something_else_is_refused() -> None:
    with pytest.raises(OctifyError, match="something else"):
        octify.convert(Swallows().eval(), X.float())


def test_a_module_to_blame_is_run_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Swallows()).eval()
    assert is_kept(model, X.float())
    assert any("something else" in warning for warning in octify.inspect(model, X.float()).warnings)


def test_the_class_of_the_result_is_kept() -> None:
    assert type(octify.convert(Named().eval(), X.float()).model(X.float())) is Result


def test_frozen_norms_stay_frozen_and_statistics_stay() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    ).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = octify.convert(model, X.float(), 0.0).model
    assert (made.get_submodule("1").training, made.get_submodule("3").training) == (False, True)
    for after in (model.state_dict(), made.state_dict()):
        assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_a_model_with_a_pruned_layer_is_copied() -> None:
    model = net(nn.ReLU())
    prune.l1_unstructured(model[0], "weight", 0.5)
    assert is_kept(model, X)


def test_on_meta_the_report_says_that_nothing_was_compared() -> None:
    report = octify.inspect(net(nn.ReLU()).to("meta"), X.to("meta"))
    assert any("not compared" in warning for warning in report.warnings)
