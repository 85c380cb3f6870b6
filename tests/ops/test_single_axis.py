"""Maps with one sample along an axis: the other axis is halved, whatever the kernel reads along the single one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.errors import InputSizeError
from tests.between import converted
from tests.oracle import EXACT, assert_same, noise, randomised

KERNELS = [(9, 1), (9, 3), (1, 3), (5, 5)]


class Sound(nn.Module):
    """Convolutions over (N, C, T, 1), or (N, C, 1, T) where ``turned``; padded by themselves or by ``F.pad``."""

    def __init__(self, kernel: tuple[int, int], stride: int, groups: int, apart: bool, turned: bool) -> None:
        super().__init__()
        pads = (kernel[0] // 2, kernel[1] // 2)
        steps = (stride, 1)
        self.outer = [pads[1], pads[1], pads[0], pads[0]] if apart else None
        if turned:
            kernel, pads, steps = kernel[::-1], pads[::-1], steps[::-1]  # type: ignore[assignment]
            self.outer = [pads[1], pads[1], pads[0], pads[0]] if apart else None
        own = (0, 0) if apart else pads
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 8, kernel, stride=steps, padding=own, groups=groups)
        self.c = nn.Conv2d(8, 8, kernel, padding=own)
        self.d = nn.Conv2d(8, 4, 1)

    def padded(self, x: Tensor) -> Tensor:
        return x if self.outer is None else F.pad(x, self.outer)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.padded(self.a(x))).relu()
        return self.d(self.c(self.padded(y))).mean((2, 3))


@given(
    kernel=st.sampled_from(KERNELS),
    stride=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 8]),
    apart=st.booleans(),
    turned=st.booleans(),
    length=st.sampled_from([8, 32, 64]),
    alpha=st.sampled_from([0.25, 0.5, 1.0]),
)
@torch.no_grad()
def test_it_is_the_projected_reference(
    kernel: tuple[int, int],
    stride: int,
    groups: int,
    apart: bool,
    turned: bool,
    length: int,
    alpha: float,
) -> None:
    net = randomised(Sound(kernel, stride, groups, apart, turned))
    x = noise(2, 3, 1, length) if turned else noise(2, 3, length, 1)
    for rules in ("everywhere", "default"):
        made = octify.convert(net, x, alpha, rules=rules, kernels="exact")
        assert_same(made.model(x), octify.reference(net, made.plan, x)(x), EXACT)


@pytest.mark.parametrize("kernel", KERNELS[:3])
@torch.no_grad()
def test_it_is_converted(kernel: tuple[int, int]) -> None:
    net = randomised(Sound(kernel, 1, 1, False, False))
    made = converted(net, noise(2, 3, 64, 1))
    assert made.low("a") and made.low("b") and made.low("c")
    assert made.boundaries == []


@pytest.mark.parametrize("kernel", [(9, 1), (9, 3)])
@torch.no_grad()
def test_other_lengths_run_and_other_widths_are_refused(kernel: tuple[int, int]) -> None:
    net = randomised(Sound(kernel, 1, 1, False, False))
    made = octify.convert(net, noise(2, 3, 64, 1), rules="everywhere", kernels="exact")
    x = noise(2, 3, 96, 1)
    assert_same(made.model(x), octify.reference(net, made.plan, x)(x), EXACT)
    with pytest.raises(InputSizeError, match="one sample along an axis"):
        made.model(noise(2, 3, 64, 4))


def test_its_macs_are_counted_from_shapes_as_on_the_graph() -> None:
    net, x = Sound((9, 1), 1, 1, False, False).double().eval(), noise(1, 3, 64, 1)
    uniform = octify.convert(net, x, 0.5, rules="everywhere").report.totals
    assert uniform.macs_after < 0.8 * uniform.macs_before  # .75 where one axis is halved
    images = [noise(32, 3, 64, 1)]
    target = octify.convert(
        net, x, target_macs=0.8, rules="everywhere", calibration=images, effort="fast"
    ).report.totals
    assert target.macs_after <= 0.8 * target.macs_before


def test_it_is_exported(tmp_path: Path) -> None:
    net, x = randomised(Sound((9, 3), 2, 1, False, False)).float(), noise(1, 3, 64, 1).float()
    made = octify.convert(net, x, rules="everywhere")
    assert octify.export_onnx(made.model, x, tmp_path / "net.onnx").passed
