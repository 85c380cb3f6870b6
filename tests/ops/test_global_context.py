"""Global context attention on octave values, against the module itself on the whole map."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.nn.global_context import OctaveGlobalContext
from tests.between import CHANNELS, assert_exact
from tests.oracle import EXACT, assert_same, noise, parted, projected, randomised

timm = pytest.importorskip("timm")
from timm.layers.global_context import GlobalContext  # noqa: E402

FORMS = [
    {},
    {"fuse_add": True},
    {"fuse_add": True, "fuse_scale": False},
    {"use_attn": False},
]


def context(options: dict[str, bool]) -> nn.Module:
    """A module whose weights all do something."""
    torch.manual_seed(0)
    made = GlobalContext(CHANNELS, rd_channels=4, **options).double().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape))
    return made


@given(
    st.sampled_from(FORMS),
    st.sampled_from([(1, 4, 6), (0,), (0, 1, 2, 3, 4, 5, 6)]),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
def test_is_the_module(options: dict[str, bool], low: tuple[int, ...], size: tuple[int, int]) -> None:
    """At odd sizes too: the last row of blocks sums what is there."""
    module = context(options)
    x = projected(noise(2, CHANNELS, *size), low)
    want = module(x)
    got = OctaveGlobalContext(module, CHANNELS, low)(*parted(x, low))
    for mine, wanted in zip(got, parted(want, low), strict=True):
        assert_same(mine, wanted, EXACT)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_between_convolutions(options: dict[str, bool]) -> None:
    assert_exact(context(options))


def test_parameters_and_gradients() -> None:
    """No weight is lost, doubled or left out."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate = nn.Conv2d(3, CHANNELS, 3, padding=1), context({"fuse_add": True})
            self.last = nn.Conv2d(CHANNELS, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.gate(self.first(x))).mean((2, 3))

    net, x = randomised(Net()), noise(2, 3, 8, 8)
    model = octify.convert(net, x, rules="everywhere").model
    assert isinstance(model.get_submodule("gate"), OctaveGlobalContext)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    counts = [sum(p.numel() for p in m.parameters()) for m in (net, model)]
    assert counts[0] == counts[1]
