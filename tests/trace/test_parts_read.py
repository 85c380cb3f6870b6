"""Code that cannot be traced and reads the weights of what it calls finds them after conversion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.trace import trace
from octify.trace.noise import same


def _gates(cell: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o, g = torch.split(cell.conv(torch.cat([x, h], 1)), cell.hidden, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class Cell(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.conv = nn.Conv2d(channels + hidden, 4 * hidden, 3, padding=1)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        return _gates(self, x, *state)

    def first(self, batch: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        like = {"device": self.conv.weight.device, "dtype": self.conv.weight.dtype}
        return tuple(torch.zeros(batch, self.hidden, *size, **like) for _ in range(2))  # type: ignore


class Lstm(nn.Module):
    """The usual ConvLSTM: layers over frames (N, T, C, H, W), states of zeros from the cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([Cell(3, 8), Cell(8, 8)])
        self.out = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor, states: Any = None) -> Tensor:
        b, _, _, h, w = x.size()
        if states is None:
            states = [cell.first(b, (h, w)) for cell in self.cells]  # type: ignore
        for cell, state in zip(self.cells, states, strict=True):
            frames = []
            for t in range(x.size(1)):
                state = cell(x[:, t], state)
                frames.append(state[0])
            x = torch.stack(frames, 1)
        return self.out(x[:, -1])


class Asks(nn.Module):
    """Its own code asks for values, calls two blocks, and reads a weight of one."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.rest = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.read(x.to(self.read[0].weight.dtype))  # type: ignore
        scale = 1.0 if float(y.abs().sum()) > 0 else 2.0
        return self.rest(y * scale) * self.read[2].weight.abs().mean()  # type: ignore


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double().eval()


FRAMES = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()


def test_a_convlstm_is_one_graph() -> None:
    model = made(Lstm)
    traced = trace(model, FRAMES)
    assert (traced.parts, traced.opaque) == (None, ())
    result = octify.convert(model, FRAMES, alpha=0.5, rules="everywhere", kernels="exact")
    reference = octify.reference(model, result.plan, FRAMES)
    plain = octify.convert(model, FRAMES, alpha=0.0).model
    for x in (FRAMES, FRAMES[:1], torch.cat([FRAMES, FRAMES], 3)):
        with torch.no_grad():
            assert same(plain(x), model(x))
            torch.testing.assert_close(result.model(x), reference(x), rtol=0, atol=1e-12)


class Like(Lstm):
    """States of zeros like the first map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.cell = Cell(8, 8)

    def forward(self, x: Tensor, states: Any = None) -> Tensor:
        h = c = None
        for frame in x.unbind(1):
            y = torch.relu(self.stem(frame))
            h = torch.zeros_like(y) if h is None else h
            c = torch.zeros_like(y) if c is None else c
            h, c = self.cell(y, (h, c))
        return self.out(h)


def test_a_cell_whose_first_state_is_like_a_map_becomes_octave() -> None:
    model = made(Like)
    result = octify.convert(model, FRAMES, alpha=0.5, rules="everywhere", kernels="exact")
    octave = {conv.path for conv in result.plan.convs if conv.low_in and conv.low_out}
    assert "cell.conv" in octave
    reference = octify.reference(model, result.plan, FRAMES)
    with torch.no_grad():
        torch.testing.assert_close(result.model(FRAMES), reference(FRAMES), rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_part_whose_weights_are_read_from_outside_stays(alpha: float) -> None:
    model, x = made(Asks), FRAMES[:, 0]
    result = octify.convert(model, x, alpha=alpha, rules="everywhere", kernels="exact")
    octave = {conv.path for conv in result.plan.convs if conv.low_in or conv.low_out}
    assert octave == ({"rest.0", "rest.2"} if alpha else set())
    reference = octify.reference(model, result.plan, x)
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), reference(x), rtol=0, atol=1e-12)
        assert alpha or same(result.model(x), model(x))
