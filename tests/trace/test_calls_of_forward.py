"""Forwards that cannot be called with tensors by position: the message says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError

X = torch.zeros(1, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class ByKeyword(Net):
    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * mask


class OfMapping(Net):
    def forward(self, x: Any) -> Tensor:
        return super().forward(x["image"])


OTHER = Net().eval()


class Named(Net):
    """It calls what a name of its file stands for."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + OTHER(x)


def closed() -> nn.Module:
    model = Net()
    forward = model.forward
    model.forward = lambda x: forward(x) * 2  # type: ignore[method-assign]
    return model.eval()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (ByKeyword(), "takes mask by keyword only"),
        (OfMapping(), "takes a mapping: it asks for 'image'"),
        (Named(), "a module that is not part of it"),
    ],
    ids=["keyword", "mapping", "named"],
)
def test_the_message(model: nn.Module, words: str) -> None:
    with pytest.raises(OctifyError) as caught:
        octify.convert(model.eval(), X)
    assert words in str(caught.value)


def test_a_forward_wrapped_by_a_closure_is_converted() -> None:
    model, x = closed(), torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = octify.convert(model, x, alpha=0)
    with torch.no_grad():
        assert torch.allclose(result.model(x), model(x), rtol=1e-5, atol=1e-6)
