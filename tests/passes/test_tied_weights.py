"""One weight in several places: converted alike or left with the reason, and one weight still when loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from tests.oracle import EXACT, assert_same, noise


class Net(nn.Module):
    """Two convolutions before and behind what uses the weight of ``b`` twice."""

    def __init__(self, use: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 4, 1),
        )
        self.d, self.e = nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 3, padding=1)
        self.d.weight = self.e.weight = self.b.weight
        self.same = self.a
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.use(self, self.a(x)))


USES: dict[str, tuple[Callable[[Net, Tensor], Tensor], str | None]] = {
    "function": (lambda m, x: F.conv2d(x, m.b.weight, m.b.bias, padding=1), None),
    "function and module": (lambda m, x: m.b(F.conv2d(x, m.b.weight, padding=1)), "b"),
    "transposed function": (lambda m, x: F.conv_transpose2d(m.b(x).relu(), m.b.weight, padding=1), "b"),
    "computed": (lambda m, x: m.b(x) + F.conv2d(x, m.b.weight.flip(2, 3), padding=1), "b"),
    "called twice": (lambda m, x: m.b(m.b(x).relu()), "b"),
    "two modules": (lambda m, x: m.d(m.b(x).relu()), "b"),
    "encoder and decoder": (lambda m, x: m.e(m.b(x).relu()), "b"),
    "for its type": (lambda m, x: m.b(x.to(m.b.weight)), "b"),
}


def net(name: str) -> Net:
    torch.manual_seed(0)
    return Net(USES[name][0]).double().eval()


@pytest.mark.parametrize("name", USES)
def test_right_and_tied(name: str, tmp_path: Path) -> None:
    model, x = net(name), noise(1, 3, 8, 8)
    result = octify.convert(model, x, rules="everywhere", kernels="exact")
    assert result.plan.conv("a").converted
    with torch.no_grad():
        wanted = result.model(x)
        assert_same(wanted, octify.reference(model, result.plan, x)(x), EXACT)
        assert_same(octify.convert(model, x, alpha=0).model(x), model(x), EXACT)
    result.save(tmp_path / "octave")
    loaded = octify.load(tmp_path / "octave", net(name))
    with torch.no_grad():
        assert_same(loaded(x), wanted, 0)
    assert len(list(loaded.parameters())) == len(list(result.model.parameters()))


@pytest.mark.parametrize("name", ["two modules", "encoder and decoder"])
def test_layers_that_share_a_weight_convert(name: str) -> None:
    """Each gets a weight of its own, and the report says so."""
    result = octify.convert(net(name), noise(1, 3, 8, 8), rules="everywhere")
    other = "d" if name == "two modules" else "e"
    assert {conv.path for conv in result.plan.convs if conv.converted} == {"a", "b", "c", other}
    (told,) = (w for w in result.report.warnings if "weights of their own" in w)
    assert f"b and {other}" in told


@pytest.mark.parametrize("name", ["function and module", "transposed function", "computed"])
def test_what_code_uses_is_left_with_the_reason(name: str) -> None:
    """The function converts."""
    result = octify.convert(net(name), noise(1, 3, 8, 8), rules="everywhere")
    assert {conv.path for conv in result.plan.convs if conv.converted} > {"a", "c"}
    reasons = {row.path: row.reason for row in result.report.left_dense}
    assert "its weights are used" in reasons["b"]
    assert any(name == "b.weight" for name, _ in result.model.named_parameters())
