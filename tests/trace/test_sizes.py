"""Sizes stay open where the model's code only computes with them; where it decides, another decision stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify
from octify.errors import InputSizeError
from octify.trace import trace
from tests.oracle import noise


class Net(nn.Module):
    """Two convolutions and what ``function`` makes of them."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.table = nn.Parameter(torch.randn(1, 1, 64, 64))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def helper(size: int, share: float) -> int:
    return max(1, int(size * share))


def energy(net: Any, x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        raise ValueError("three channels, please")
    y = net.b(net.a(x))
    h, w = y.shape[-2:]
    return y.sum((2, 3)) / (h * w)


def asked_rank(net: Any, x: Tensor) -> Tensor:
    if x.dim() == 3 or x.ndim == 3 or len(x.shape) != 4:
        x = x.unsqueeze(0)
    return F.interpolate(net.b(net.a(x)), size=x.shape[-2:])


def cropped(net: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == 3 and isinstance(x.shape[2], int)
    h, w = x.shape[-2:]
    y = net.a(F.pad(x, (0, -w % 8, 0, -h % 8)))
    return y[..., :h, :w]


def halved_by_float(net: Any, x: Tensor) -> Tensor:
    h, w = x.size(2), x.size(3)
    return F.interpolate(net.a(x), size=(int(h * 0.5), int(w * 0.5)), mode="bilinear")


def by_a_helper(net: Any, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(net.a(x), (helper(x.shape[2], 0.3), helper(x.shape[3], 0.7)))


def squared(net: Any, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    side = max(h, w)
    return net.a(F.pad(x, (0, side - w, 0, side - h)))


def smallest(net: Any, x: Tensor) -> Tensor:
    side = min(x.shape[2:])
    return net.a(x)[:, :, :side, :side]


def rounded(net: Any, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    size = (round(h / 3), math.ceil(w / 3), math.floor(h / 5), abs(-w) // 4)
    y = net.a(x)
    return F.adaptive_avg_pool2d(y, size[:2]).sum((2, 3)) + F.adaptive_avg_pool2d(y, size[2:]).sum((2, 3))


def divided(net: Any, x: Tensor) -> Tensor:
    rows, rest = divmod(x.shape[2], 4)
    return net.a(x) * float(rows) + rest


def sliced_table(net: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == 3
    return net.a(x) + net.table[:, :, : x.shape[2], : x.shape[3]]


def grid(net: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    assert c == 3
    ys = torch.linspace(-1, 1, h, dtype=x.dtype)
    xs = torch.arange(w, dtype=x.dtype) / w
    return net.a(x) + ys[:, None] + xs + torch.zeros(n, 1, h, w, dtype=x.dtype)


def batch_first(net: Any, x: Tensor) -> Tensor:
    if x.shape[1] == 3:
        return net.b(net.a(x)).reshape(len(x), -1)[:, :100]
    return x


def tokens(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    b, c, h, w = y.shape
    if c % 4:
        raise ValueError("four heads")
    t = y.flatten(2).transpose(1, 2)
    return t.reshape(b, t.shape[1], 4, c // 4).sum(2).transpose(1, 2).reshape(b, c // 4, h, w)


def assigned(net: Any, x: Tensor) -> Tensor:
    y = net.a(x).clone()
    y[:, :4] = 0
    y[:, 4:8, : x.shape[2] // 2] += 1
    y[:, 8] *= 2
    return net.b(y)


OPEN = (
    energy,
    asked_rank,
    cropped,
    halved_by_float,
    by_a_helper,
    squared,
    smallest,
    rounded,
    divided,
    sliced_table,
    grid,
    batch_first,
    tokens,
    assigned,
)
SIZES = ((2, 16, 16), (1, 24, 20), (3, 20, 28), (2, 12, 12))


@pytest.mark.parametrize("function", OPEN)
@pytest.mark.parametrize("inside", [False, True], ids=["the root", "a submodule"])
def test_sizes_stay_open(function: Any, inside: bool) -> None:
    net: nn.Module = Net(function)
    model = (nn.Sequential(nn.Identity(), net) if inside else net).double().eval()
    traced = trace(model, noise(2, 3, 16, 16))
    assert (traced.opaque, traced.fixed_sizes, traced.parts) == ((), (), None)
    result = octify.convert(model, noise(2, 3, 16, 16), alpha=0.0, rules="everywhere")
    for n, h, w in SIZES:
        x = noise(n, 3, h, w, seed=h)
        with torch.no_grad():
            assert torch.equal(traced.module(x), model(x))
            assert torch.equal(result.model(x), model(x))


def branches(net: Any, x: Tensor) -> Tensor:
    return net.a(x) if x.shape[2] % 16 == 0 else net.a(x) * 2


def wider(net: Any, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    return net.a(x) * (1 if w >= h else -1)


def even(net: Any, x: Tensor) -> Tensor:
    _, c, h, w = x.shape
    assert c == 3 and h % 16 == 0 and w % 2 == 0
    return net.b(net.a(x))


def rows(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    return torch.stack([y[:, :, i] for i in range(x.shape[2])], 2)


def half_the_rows(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    for i in range(y.size(2) // 2):
        y = y * (1 + i)
    return y


def unbound(net: Any, x: Tensor) -> Tensor:
    return torch.stack([row * i for i, row in enumerate(net.a(x).unbind(2))], 2)


def listed(net: Any, x: Tensor) -> Tensor:
    return net.a(x) * ([1.0] * x.shape[2])[-1] * len([0] * x.shape[2])


DECIDING = {branches: False, wider: False, even: False, rows: True, half_the_rows: True, unbound: True}
DECIDING[listed] = True


@pytest.mark.parametrize("function", DECIDING)
@pytest.mark.parametrize("inside", [False, True], ids=["the root", "a submodule"])
def test_where_a_size_decides_another_decision_stops(function: Any, inside: bool) -> None:
    net: nn.Module = Net(function)
    model = (nn.Sequential(nn.Identity(), net) if inside else net).double().eval()
    x, other = noise(2, 3, 16, 16), noise(1, 3, 24, 20)
    result = octify.convert(model, x, alpha=0.5, rules="everywhere", kernels="exact")
    (told,) = trace(model, x).fixed_sizes
    assert told.fixes == DECIDING[function]
    assert any("decides by a size" in text and "test_sizes.py:" in text for text in result.report.warnings)
    reference = octify.reference(model, result.plan, x)
    with torch.no_grad():
        assert float((result.model(x) - reference(x)).abs().max()) < 1e-9
        with pytest.raises(InputSizeError, match="converted for other input sizes"):
            result.model(other)


def test_another_size_with_the_same_decision() -> None:
    model = Net(branches).double().eval()
    result = octify.convert(model, noise(2, 3, 16, 16), alpha=0.0, rules="everywhere")
    x = noise(1, 3, 32, 20)
    with torch.no_grad():
        assert torch.equal(result.model(x), model(x))


def test_the_batch_that_moved_to_another_place_decides_nothing() -> None:
    """``shape[1]`` of a transposed map is the batch; built in, another batch would be wrong."""

    def moved(net: Any, x: Tensor) -> Tensor:
        y = net.a(x).transpose(0, 1)
        return y.flatten(2).sum(2) / y.shape[1] if x.shape[1] == 3 else x

    model = Net(moved).double().eval()
    traced = trace(model, noise(2, 3, 16, 16))
    for n in (1, 2, 5):
        x = noise(n, 3, 16, 16)
        with torch.no_grad():
            assert torch.equal(traced.module(x), model(x))


def test_time_in_the_place_of_channels() -> None:
    """A recurrence is unrolled for the example's steps; with more of them it stops."""

    def recurrent(net: Any, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0, :1])
        for step in range(x.shape[1]):
            state = net.a(x[:, step] + state).mean(1, keepdim=True)
        return state

    model = Net(recurrent).double().eval()
    x = noise(2, 4, 3, 16, 16)
    result = octify.convert(model, x, alpha=0.0, rules="everywhere")
    with torch.no_grad():
        for other in (x, noise(3, 4, 3, 20, 12)):
            assert torch.equal(result.model(other), model(other))
        with pytest.raises(InputSizeError):
            result.model(noise(2, 5, 3, 16, 16))


def test_no_stand_in_is_left_behind() -> None:
    trace(Net(halved_by_float).eval(), torch.zeros(1, 3, 16, 16))
    assert not {"int", "max", "len"} & set(globals())


def test_a_module_made_in_forward() -> None:
    def pooled(net: Any, x: Tensor) -> Tensor:
        return net.b(nn.Sequential(nn.AvgPool2d(2), nn.ReLU())(net.a(x)))

    model = nn.Sequential(nn.Identity(), Net(pooled)).double().eval()
    traced = trace(model, noise(2, 3, 16, 16))
    assert (traced.opaque, traced.parts) == ((), None)
    with torch.no_grad():
        x = noise(1, 3, 12, 20)
        assert torch.equal(traced.module(x), model(x))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"class": nn.Conv2d(3, 16, 3), "import": nn.Conv2d(16, 16, 3, padding=1)})

    def forward(self, x: Tensor) -> Tensor:
        return self.heads["import"](self.heads["class"](x).relu())


def test_submodules_named_by_keywords() -> None:
    model, x = Named().double().eval(), noise(2, 3, 16, 16)
    result = octify.convert(model, x, alpha=0.5, rules="everywhere", kernels="exact")
    assert {conv.path for conv in result.plan.convs if conv.converted} == {"heads.class", "heads.import"}
    reference = octify.reference(model, result.plan, x)
    with torch.no_grad():
        assert float((result.model(x) - reference(x)).abs().max()) < 1e-9
