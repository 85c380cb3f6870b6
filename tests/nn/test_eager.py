"""Shortcuts of plain eager inference: the same function, and only where nobody looks on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from octify.nn import OctaveConv2d, eager
from octify.nn.eager import add_upsampled, convolved, is_plain, pooled

FORMATS = [torch.contiguous_format, torch.channels_last]
EPS = float(torch.finfo(torch.float32).eps)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What ``convolved`` gave to oneDNN."""
    found: list[Tensor] = []
    real = torch.ops.aten.mkldnn_convolution

    class Watching:
        def mkldnn_convolution(self, x: Tensor, *rest: object) -> Tensor:
            found.append(x)
            y: Tensor = real(x, *rest)
            return y

    monkeypatch.setattr(eager, "_ATEN", Watching())
    return found


def octave(kernel: int = 3, stride: int = 1) -> OctaveConv2d:
    torch.manual_seed(0)
    return OctaveConv2d(16, 16, kernel, stride, kernel // 2).eval()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [(16, 12), (15, 13), (1, 8)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_the_same_function(
    kernel: int, stride: int, size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    """With gradients everything runs as written. Bound: both sum up the same products, in other orders."""
    conv = octave(kernel, stride)
    low_size = [(n + 1) // 2 for n in size]
    high, low = torch.randn(3, 8, *size), torch.randn(3, 8, *low_size)
    high, low = (x.to(memory_format=memory_format) for x in (high, low))
    written = conv(high, low)
    assert all(y.requires_grad for y in written)
    with torch.no_grad():
        plain = conv(high, low)
        bound = [y.abs() for y in absolute(conv)(high.abs(), low.abs())]
    terms = 16 * kernel**2 + 4
    for want, got, most in zip(written, plain, bound, strict=True):
        assert got.is_contiguous(memory_format=memory_format) or 1 in size
        assert bool(((want - got).abs() <= 2 * terms * EPS * most).all())


def absolute(conv: OctaveConv2d) -> OctaveConv2d:
    """``conv`` with the magnitudes of its weights: of magnitudes it makes the sums that bound rounding."""
    made = octave(conv.axes[0].taps, conv.axes[0].stride)
    made.load_state_dict({name: value.abs() for name, value in conv.state_dict().items()})
    return made


def test_onednn_is_asked_in_plain_inference_alone(asked: list[Tensor]) -> None:
    conv, x = octave().high_to_high, torch.randn(1, 8, 16, 16)
    assert isinstance(conv, nn.Conv2d)
    convolved(conv, x)  # gradients
    with torch.no_grad():
        convolved(conv, x.requires_grad_(False).to(torch.float64).float())
        assert len(asked) == 1
        with FlopCounterMode(display=False) as counted:
            convolved(conv, x)
        with torch.autocast("cpu"):
            convolved(conv, x)
        torch.vmap(lambda one: convolved(conv, one[None]))(x)
        torch._C._set_mkldnn_enabled(False)
        try:
            convolved(conv, x)
        finally:
            torch._C._set_mkldnn_enabled(True)
        convolved(conv, x[:, :, :2, :2])  # the weights outweigh the map
    assert counted.get_total_flops() > 0
    assert len(asked) == 1


def test_hooks_see_what_they_saw(asked: list[Tensor]) -> None:
    """What a hook has kept is not changed afterwards."""
    conv = octave()
    seen: list[Tensor] = []
    assert conv.high_to_high is not None
    conv.high_to_high.register_forward_hook(lambda module, inputs, y: seen.append(y))
    high, low = torch.randn(1, 8, 16, 16), torch.randn(1, 8, 8, 8)
    with torch.no_grad():
        conv(high, low)
        assert torch.equal(seen[0], conv.high_to_high(high))
    assert len(asked) == 3  # of the four paths


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 4, 7, 5), (2, 3, 1, 9), (1, 32, 70, 70)])
def test_add_upsampled(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    """To the last bit: one addition for every sample either way."""
    torch.manual_seed(0)
    total = torch.randn(shape).to(memory_format=memory_format)
    low = torch.randn(*shape[:2], (shape[2] + 1) // 2, (shape[3] + 1) // 2)
    up = F.interpolate(low, scale_factor=2.0)[..., : shape[2], : shape[3]]
    want = total + up
    assert torch.equal(add_upsampled(total, low), want)


def test_pooled() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 6)
    with torch.no_grad():
        got = pooled(x)
        assert got is not None
        torch.testing.assert_close(got, F.avg_pool2d(x, 2), rtol=0, atol=4 * EPS * float(x.abs().max()))
        assert pooled(x[..., :5]) is None
        assert pooled(x.to(memory_format=torch.channels_last)) is None
    assert pooled(x) is None  # gradients


@pytest.mark.parametrize("change", [torch.Tensor.double, nn.Parameter])
def test_other_tensors_are_not_plain(change: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        assert is_plain(torch.zeros(2))
        assert not is_plain(change(torch.zeros(2)))
    assert not is_plain(torch.zeros(2))
